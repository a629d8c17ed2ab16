"""The verdict on one answer: is it JSON, does it satisfy the schema, how right is each field?

What counts as JSON is RFC 8259 and no more: NaN, Infinity, duplicate keys, a byte order mark and
white space other than its four kinds make an answer invalid; what it merely calls unwise (integers
past 2^53, lone surrogates) does not. The whole answer must be one JSON value, or one fenced ```json
block (counted as `fenced`); an object somewhere in prose is not an answer. Of the limits that
section 9 allows a reader, one is set: `shared.base.parsing.DEEPEST_JSON` levels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from shared.base.parsing import loads_strictly
from shared.domain.records import Record
from shared.domain.settings import FieldScoring
from shared.evaluate.scoring.field_score import dangers, score, second_score

WHITE_SPACE = " \t\n\r"
FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ABSENT = object()
REFUSALS = (
    "i cannot",
    "i can't",
    "i can not",
    "i could not",
    "i am unable",
    "i'm unable",
    "i am not able",
    "i'm not able",
    "i am sorry",
    "i'm sorry",
    "sorry",
    "i apologize",
    "i apologise",
    "i will not",
    "i won't",
    "i must decline",
    "unfortunately, i",
    "as an ai",
    "as a language model",
    "as a large language model",
)
"""How a refusal opens; upper case and the kind of apostrophe aside."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one answer.

    `fields`: 0 to 1 for each field; None where it is not judged (`is_judged`). `nonnull`: whether
    the field's gold is not null. `reason`: why, where `json` or `schema` is False. `characters`:
    the answer's length. `second`: the second figures, `<field>.<metric>`; they count in no average.
    `dangerous`: in what the answer contradicts gold; None where no field is judged by `clinical`.
    `rule`: the reason without a word of the answer: which part of schema.json it breaks.
    """

    json: bool
    fenced: bool
    schema: bool
    degenerate: bool
    empty: bool
    refusal: bool
    fields: dict[str, float | None]
    nonnull: dict[str, bool]
    reason: str | None
    characters: int
    second: dict[str, float | None] = field(default_factory=dict)
    rule: str | None = None
    dangerous: list[str] | None = None


def judge(
    text: str, record: Record, schema: dict[str, Any], scoring: Mapping[str, FieldScoring]
) -> Verdict:
    """Judge the text a model wrote against the record's gold answer and the domain's schema.

    An answer that is not a JSON object scores 0 on every judged field; one that breaks the schema
    still scores on the fields that are there.
    """
    value: Any = ABSENT
    fenced, fault, rule = False, None, None
    try:
        value, fenced = parse(text)
        fault, rule = _fault(value, schema)
    except ValueError as error:
        fault, rule = f"not JSON: {error}", "not JSON"
    fields, second = _scores(value, record, schema, scoring)
    return Verdict(
        json=value is not ABSENT,
        fenced=fenced,
        schema=fault is None,
        degenerate=is_degenerate(text),
        empty=not text.strip(),
        refusal=is_refusal(text),
        fields=fields,
        nonnull={name: record.gold.get(name) is not None for name in fields},
        reason=fault and fault.encode("utf-8", "backslashreplace").decode("utf-8"),
        characters=len(text),
        second=second,
        rule=rule,
        dangerous=_dangers(value, record, schema, scoring),
    )


def _fault(value: Any, schema: dict[str, Any]) -> tuple[str | None, str | None]:
    """The first thing in which a value breaks the schema, and that part's place in the schema."""
    try:
        error = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    except OverflowError:
        return ("a number is too large to be held against the schema",) * 2
    if error is None:
        return None, None
    place = ".".join(map(str, error.path)) or "answer"
    return f"{place}: {error.message}", f"breaks {'.'.join(map(str, error.schema_path))}"


def is_judged(name: str, how: FieldScoring, record: Record, schema: dict[str, Any]) -> bool:
    """Not where `where` leaves the record out, nor where its gold lacks a field the schema requires."""
    known = name in record.gold or name not in schema.get("required", [])
    return known and how.judges(record.gold)


def _scores(
    value: Any, record: Record, schema: dict[str, Any], scoring: Mapping[str, FieldScoring]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """The scores and the second figures, in the schema's order."""
    fields: dict[str, float | None] = {}
    second: dict[str, float | None] = {}
    names = [name for name in schema.get("properties", {}) if name in scoring]
    for name in names:
        how = scoring[name]
        judged = is_judged(name, how, record, schema)
        found = _found(value, name, schema)
        gold = record.gold.get(name)
        there = judged and found is not ABSENT
        fields[name] = score(how, found, gold, record.input) if there else 0.0 if judged else None
        if how.also:
            figure = second_score(how, found, gold) if there else 0.0 if judged else None
            second[f"{name}.{how.also}"] = figure
    return fields, second


def _dangers(
    value: Any, record: Record, schema: dict[str, Any], scoring: Mapping[str, FieldScoring]
) -> list[str] | None:
    """Every contradiction to gold, each with its field."""
    clinical = {
        name: how
        for name, how in scoring.items()
        if how.metric == "clinical" and is_judged(name, how, record, schema)
    }
    if not clinical:
        return None
    return [
        f"{name}: {words}"
        for name, how in clinical.items()
        for words in dangers(how, _found(value, name, schema), record.gold.get(name), record.input)
    ]


def _found(value: Any, name: str, schema: dict[str, Any]) -> Any:
    """The answer's value of a field; leaving out what the schema does not ask for means null."""
    if not isinstance(value, dict):
        return ABSENT
    return value.get(name, ABSENT if name in schema.get("required", []) else None)


def parse(text: str) -> tuple[Any, bool]:
    """The JSON value of an answer, and whether it stood in a fence; ValueError if there is none."""
    stripped = text.strip(WHITE_SPACE)
    fence = FENCE.fullmatch(stripped)
    return loads_strictly(fence.group(1) if fence else stripped), bool(fence)


def is_refusal(text: str) -> bool:
    """Whether the text opens with one of `REFUSALS`, as no JSON text can."""
    return text.strip().lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").startswith(REFUSALS)


def is_degenerate(text: str) -> bool:
    """Garbage rather than language: empty, undecodable bytes, or one word over and over.

    The last is judged on answers of 20 words and more: under a tenth of them distinct.
    """
    words = text.split()
    repeated = len(words) >= 20 and len(set(words)) < len(words) / 10
    return not words or REPLACEMENT in text or repeated
