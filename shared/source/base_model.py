"""Is the folder a fine-tune of the rung's base? By its dimensions, and by what its own files say.

A fine-tune of a 0.5B that passes for a 3B would get the 3B's name and licence on its card. What
README.md, config.json and adapter_config.json name is a claim: it can contradict, not prove.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.front_matter import read_front_matter
from shared.base.manifest import Strict
from shared.base.parsing import read_json, read_text, read_toml
from shared.domain.settings import Rung

COMMIT = re.compile(r"[0-9a-f]{40}")
FILE = Path(__file__).with_name("bases.toml")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SIZE = re.compile(r"(\d+(?:\.\d+)?)[ _-]?([bm])(?![a-z0-9])")
PRECISION = re.compile(
    r"[-_.](unsloth|bnb|dynamic|gptq|awq|nf4|fp8|bf16|fp16|fp32|hf|mlx|int[48]|[48]-?bit)(?=[-_.]|$)"
)
"""What a publisher puts behind a name for the same weights in another type."""
CHANGED = re.compile(r"(?i)(?<![a-z])(pissa|loftq|olora|corda|lora[-_]?ga)(?![a-z])")
"""Ways to begin a LoRA that take something off the base's weights and keep what is left as another
base; LLaMA-Factory's scripts then write init_lora_weights = true."""
LICENCE = re.compile(r"[a-z]+[a-z0-9.]*-[a-z0-9.-]+|mit|other|llama\d.*|gemma")
"""What a licence identifier of the Hub looks like; a template's "license" is none."""


class Dimensions(Strict):
    """What a model's fine-tunes have in common with it, as config.json names it."""

    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt


class Bases(Strict):
    """bases.toml."""

    base: dict[str, Dimensions] = Field(min_length=1)


@cache
def known_bases() -> dict[str, Dimensions]:
    """Dimensions of the published base models that we know, by name on the Hub."""
    return read_toml(FILE, Bases).base


def refuse_other_base(
    folder: Path, config: dict[str, Any], rung: Rung, base: dict[str, Any] | None = None
) -> None:
    """RungFailed naming both where the folder is not, or says it is not, of the rung's base.

    `base`: config.json of the rung's base_source, if it is at hand. Dimensions are compared where the
    rung says what it is made from (model_type): a rung that takes any architecture takes any size.
    """
    for name, value in _dimensions(rung, base or {}):
        if config.get(name) != value:
            raise RungFailed(
                f"{paths.shown(folder / 'config.json')}: {name}: {config.get(name)} is not "
                f"{rung.base}'s {value}, which the rung {rung.name} is made from"
            )
    for where, name in claims(folder, config):
        if name.lower() != origin(rung).lower() and contradicts(name, rung.base):
            raise RungFailed(
                f"{paths.shown(folder)}/{where}: says {name}, but the rung {rung.name} is made from "
                f"{rung.base}; correct the one that is wrong, or write a rung of its own"
            )
    card = _card(folder)
    licence = card.get("license")
    tags = card.get("tags")
    by_rote = licence == "apache-2.0" and isinstance(tags, list) and "unsloth" in tags
    if by_rote or (licence == "other" and not card.get("license_name")):
        return  # Unsloth and LLaMA-Factory write it beside every model, whatever that has
    if isinstance(licence, str) and LICENCE.fullmatch(licence) and licence != rung.licence:
        stated = f"{rung.licence} ({rung.licence_name})" if rung.licence_name else rung.licence
        raise RungFailed(
            f"{paths.shown(folder)}/README.md: license: {licence}, but the rung {rung.name} has "
            f"licence {stated}; correct the one that is wrong"
        )


def refuse_other_commit(folder: Path, rung: Rung) -> None:
    """RungFailed where the adapter names a commit of its base, and the rung's source another one."""
    config = read_json(folder / "adapter_config.json")
    trained, taken = str(config.get("revision")), rung.source.partition("@")[2]
    if COMMIT.fullmatch(trained) and COMMIT.fullmatch(taken) and trained != taken:
        raise RungFailed(
            f"{paths.shown(folder / 'adapter_config.json')}: revision: {trained} of its base, but the "
            f"rung {rung.name} takes {rung.source}"
        )


def refuse_other_variant(folder: Path, rung: Rung) -> None:
    """RungFailed where the adapter names a publisher's model that is not the rung's base, or somebody's
    that was made of it (-sft): nothing else tells weights of one shape apart."""
    claim = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(claim, str):
        return
    mine, changed = origin(rung), CHANGED.search(claim)
    if changed and not CHANGED.search(rung.source):
        raise RungFailed(
            f"{paths.shown(folder / 'adapter_config.json')}: base_model_name_or_path: "
            f"{claim!r:.200}: by its name {changed[1]} has changed that base's weights, but the rung "
            f"{rung.name} merges it into {mine}; give the rung that base as its source"
        )
    if not HUB_NAME.fullmatch(claim):
        return
    if claim.lower() == mine.lower() or claim == rung.source:
        return
    publishers = {"unsloth", *(name.split("/")[0].lower() for name in (rung.base, *known_bases()))}
    published = claim.split("/")[0].lower() in publishers
    said, ours, base = _variant(claim), _variant(mine), _variant(rung.base)
    if said == base and mine.split("/")[0].lower() not in publishers and not _is_of(ours, base):
        return  # a copy of the base under somebody's own name
    made_of = _is_of(said, ours) or _is_of(ours, said)
    if said != ours and (published or made_of):
        raise RungFailed(
            f"{paths.shown(folder / 'adapter_config.json')}: base_model_name_or_path: {claim}, but the "
            f"rung {rung.name} merges it into {mine}; correct the one that is wrong"
        )


def _is_of(name: str, base: str) -> bool:
    """Whether a model's name says that it was made of `base`: -sft, -Base."""
    return name.startswith(f"{base}-")


def origin(rung: Rung) -> str:
    """The repository that the rung's weights come from, where its source says so, else its base."""
    return rung.source[3:].partition("@")[0] if rung.source.startswith("hf:") else rung.base


def split_anew(found: Any, rung: Rung) -> str:
    """What to do with a Phi-3 as Unsloth keeps it."""
    if (found, rung.model_type) != ("mistral", "phi3"):
        return ""
    return (
        '; Unsloth splits Phi-3 into Mistral\'s layers: give the rung model_type = "mistral" and, for '
        "an adapter, Unsloth's own base as its source"
    )


def _variant(name: str) -> str:
    """A model's name without its owner, and without what says the type of its weights.

    >>> _variant("unsloth/Qwen2.5-3B-Instruct-unsloth-bnb-4bit")
    'qwen2.5-3b-instruct'
    """
    return PRECISION.sub("", name.lower().partition("/")[2]).removeprefix("meta-")


def _dimensions(rung: Rung, base: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if rung.model_type is None:
        return
    known = known_bases().get(rung.base)
    yield from known.model_dump().items() if known else ()
    yield from ((name, base[name]) for name in Dimensions.model_fields if name in base)


def claims(folder: Path, config: dict[str, Any]) -> list[tuple[str, str]]:
    """(where, org/name) of every base model that the folder's own files name; local paths are none."""
    stated = _card(folder).get("base_model")
    found = [
        ("README.md: base_model", n) for n in (stated if isinstance(stated, list) else [stated])
    ]
    found.append(("config.json: _name_or_path", config.get("_name_or_path")))
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and isinstance(value := read_json(adapter), dict):
        place = "adapter_config.json: base_model_name_or_path"
        found.append((place, value.get("base_model_name_or_path")))
    return [(w, n) for w, n in found if isinstance(n, str) and HUB_NAME.fullmatch(n)]


def contradicts(claim: str, base: str) -> bool:
    """Whether a model of the name `claim` cannot be, or come from, `base`.

    Sizes that differ do, and for a publisher of base models the names up to the size; what comes
    after it (-Instruct, -Base, -bnb-4bit) does not. A name of somebody's own without a size says
    nothing.

    >>> contradicts("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-3B-Instruct")
    True
    >>> contradicts("unsloth/Qwen2.5-3B-bnb-4bit", "Qwen/Qwen2.5-3B-Instruct")
    False
    """
    (org, family, size), (our_org, our_family, our_size) = _parts(claim), _parts(base)
    known = {name.lower() for name in known_bases()}
    if size and our_size:
        publishes = org in {our_org, *(name.split("/")[0] for name in known)}
        return size != our_size or (publishes and family != our_family)
    return claim.lower() in known and claim.lower() != base.lower()


def _parts(name: str) -> tuple[str, str, float]:
    """Organisation, family and size in millions of parameters (0 where the name has none)."""
    org, _, model = name.lower().partition("/")
    found = SIZE.search(model)
    if not found:
        return org, model, 0.0
    family = re.sub(r"[^a-z0-9.]", "", model[: found.start()])
    return org, family, float(found[1]) * (1000 if found[2] == "b" else 1)


def _card(folder: Path) -> dict[str, Any]:
    try:
        return read_front_matter(read_text(folder / "README.md"))
    except (ValueError, UserError):
        return {}
