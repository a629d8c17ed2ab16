"""How each field of an answer is scored: the section `[metrics]` of fallback.toml.

    [metrics]
    clause_type = "exact"
    jurisdiction = { metric = "exact", lower = true, drop = ["the"], where = { clause_type = "x" } }

The metrics themselves stand in metrics.py.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

import jsonschema
from pydantic import ConfigDict, Field, field_validator, model_validator

from shared.base.manifest import Strict
from shared.base.parsing import Key, nearest

Metric = Literal["exact", "set_f1", "token_f1", "number", "verbatim"]
METRICS: tuple[str, ...] = get_args(Metric)


class FieldScoring(Strict):
    """How one field is scored.

    `metric`:
    - exact: the same JSON value; numbers by value, true is not 1, "1" is not 1.
    - set_f1: F1 of two lists' items, order and repetition aside.
    - token_f1: F1 of SQuAD's tokens.
    - number: the same numbers, however written (TAT-QA), and the same words around them; a list's
      order aside, as TAT-QA has it.
    - verbatim: a quote of the input, white space aside: every word of it stands there in a row.
      It says that nothing was made up, not that the right place was quoted.

    `where`: judged only on records whose gold has these values. `drop`: phrases dropped as whole
    words. `lower`: case is ignored. `decimals`: numbers are rounded to so many first. `also`: a
    second figure beside the first, which counts in no average; its tokens are the metric's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Metric
    where: dict[str, Any] = Field(default_factory=dict)
    drop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    lower: bool = False
    decimals: int | None = Field(default=None, ge=0, le=12)
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
        if self.decimals is not None and self.metric != "number":
            raise ValueError(f"decimals goes with the metric number, not with {self.metric}")
        if self.also == self.metric:
            raise ValueError("also: names the metric that is there already")
        return self

    def judges(self, gold: Mapping[str, Any]) -> bool:
        """Whether a record with this gold answer is judged for the field."""
        return all(key in gold and same(gold[key], value) for key, value in self.where.items())


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
