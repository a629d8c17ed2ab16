"""Judge one answer, strictly: is it JSON, does it satisfy the schema, how many fields are right?

What counts as JSON is RFC 8259 and no more: NaN, Infinity and duplicate keys make an answer invalid.
The whole answer must be one JSON value, or one fenced ```json block (counted as `fenced`); an
object somewhere in prose is not an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jsonschema

from shared.strict import loads_strictly

FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Verdict:
    """`reason` says why where `json` or `schema` is False; `fields` are shares of exact matches."""

    json: bool
    fenced: bool
    schema: bool
    degenerate: bool
    fields: dict[str, bool]
    reason: str | None = None


def judge(text: str, gold: dict[str, Any], schema: dict[str, Any]) -> Verdict:
    """Judge the text a model wrote against the record's gold answer and the domain's schema."""
    fields = dict.fromkeys(gold, False)
    degenerate = is_degenerate(text)
    try:
        value, fenced = parse(text)
    except ValueError as error:
        return Verdict(False, False, False, degenerate, fields, f"not JSON: {error}")
    fault = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    if isinstance(value, dict):
        fields = {key: key in value and same(value[key], gold[key]) for key in gold}
    reason = f"{'.'.join(map(str, fault.path)) or 'answer'}: {fault.message}" if fault else None
    return Verdict(True, fenced, fault is None, degenerate, fields, reason)


def parse(text: str) -> tuple[Any, bool]:
    """The JSON value of an answer, and whether it stood in a fence; ValueError if there is none."""
    stripped = text.strip()
    fence = FENCE.fullmatch(stripped)
    if fence:
        return loads_strictly(fence.group(1)), True
    return loads_strictly(stripped), False


def is_complete(text: str) -> bool:
    """True once the text is one whole JSON object, so that generation can stop there."""
    if not text.rstrip().endswith(("}", "```")):
        return False
    try:
        return isinstance(parse(text)[0], dict)
    except (ValueError, RecursionError):
        return False


def is_degenerate(text: str) -> bool:
    """Garbage rather than language: empty, undecodable bytes, or one word over and over.

    The last is judged on answers of 20 words and more: under a tenth of them distinct.
    """
    words = text.split()
    repeated = len(words) >= 20 and len(set(words)) < len(words) / 10
    return not words or REPLACEMENT in text or repeated


def same(found: Any, gold: Any) -> bool:
    """Equality that keeps true apart from 1, and 1 from 1.0's spelling only where types differ."""
    return type(found) is type(gold) and bool(found == gold)
