"""Answers are judged strictly; each adversarial answer has its expected verdict."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import pytest

from shared.base.parsing import DEEPEST_JSON
from shared.domain.records import Record
from shared.domain.settings import FieldScoring, same
from shared.evaluate.scoring.verdict import (
    REFUSALS,
    Verdict,
    is_degenerate,
    judge,
    parse,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": ["integer", "null"]}, "b": {"type": "string"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SCORING = {"a": FieldScoring(metric="exact"), "b": FieldScoring(metric="exact")}
RECORD = Record(id="r1", input="x", gold={"a": 1, "b": "x"})
FLAGS = ("json", "schema", "fenced", "degenerate", "empty", "refusal")
DEEP = 100_000


def verdict_on(text: str, gold: dict[str, Any] | None = None) -> Verdict:
    record = Record(id="r1", input="x", gold=gold or RECORD.gold)
    return judge(text, record, SCHEMA, SCORING)


# what it is: (the answer, the flags that are set, which fields are right)
RIGHT = "json schema"
CASES = {
    "the gold itself": ('{"a": 1, "b": "x"}', RIGHT, "ab"),
    "the keys the other way round": ('{"b": "x", "a": 1}', RIGHT, "ab"),
    "white space around it": (' \r\n\t{"a": 1, "b": "x"}\n', RIGHT, "ab"),
    "null where null may stand": ('{"a": null, "b": "x"}', RIGHT, "b"),
    "null where it may not": ('{"a": 1, "b": null}', "json", "a"),
    "1.0 for 1, which JSON Schema calls equal": ('{"a": 1.0, "b": "x"}', RIGHT, "ab"),
    "a number as a string": ('{"a": "1", "b": "x"}', "json", "b"),
    "true for 1": ('{"a": true, "b": "x"}', "json", "b"),
    "an extra key": ('{"a": 1, "b": "x", "c": 0}', "json", "ab"),
    "a missing key": ('{"a": 1}', "json", "a"),
    "no key at all": ("{}", "json", ""),
    "an array": ("[1]", "json", ""),
    "the gold in an array": ('[{"a": 1, "b": "x"}]', "json", ""),
    "the word null": ("null", "json", ""),
    "a bare string": ('"x"', "json", ""),
    # what Python's json reads and RFC 8259 does not allow
    "NaN": ('{"a": NaN, "b": "x"}', "", ""),
    "NaN alone": ("NaN", "", ""),
    "Infinity": ('{"a": Infinity, "b": "x"}', "", ""),
    "minus Infinity": ('{"a": -Infinity, "b": "x"}', "", ""),
    "duplicate keys with one value": ('{"a": 1, "a": 1, "b": "x"}', "", ""),
    "duplicate keys, one escaped": ('{"a": 1, "\\u0061": 1, "b": "x"}', "", ""),
    "duplicate keys further in": ('{"a": 1, "b": {"c": 1, "c": 2}}', "", ""),
    "a byte order mark": ('\ufeff{"a": 1, "b": "x"}', "", ""),
    "a no-break space around it": ('\u00a0{"a": 1, "b": "x"}', "", ""),
    "a line separator after it": ('{"a": 1, "b": "x"}\u2028', "", ""),
    # near misses
    "text after it": ('{"a": 1, "b": "x"} Hope this helps!', "", ""),
    "a second object after it": ('{"a": 1, "b": "x"}\n{"a": 1, "b": "x"}', "", ""),
    "text before it": ('Here: {"a": 1, "b": "x"}', "", ""),
    "single quotes": ("{'a': 1, 'b': 'x'}", "", ""),
    "a trailing comma": ('{"a": 1, "b": "x",}', "", ""),
    "a comment": ('{"a": 1, /* one */ "b": "x"}', "", ""),
    "Python's True": ('{"a": True, "b": "x"}', "", ""),
    "a bare line break in a string": ('{"a": 1, "b": "x\n"}', "", ""),
    "a leading zero": ('{"a": 01, "b": "x"}', "", ""),
    "full-width digits": ('{"a": １, "b": "x"}', "", ""),
    "the word json before it": ('json {"a": 1, "b": "x"}', "", ""),
    "cut in the middle": ('{"a": 1, "b": "', "", ""),
    "ull, which null must not become": ("ull", "", ""),
    # fences
    "a fenced json block": ('```json\n{"a": 1, "b": "x"}\n```', "json schema fenced", "ab"),
    "a fence without language": ('```\n{"a": 1, "b": "x"}\n```', "json schema fenced", "ab"),
    "a fence of another language": ('```python\n{"a": 1, "b": "x"}\n```', "", ""),
    "a fence with text before it": ('Sure:\n```json\n{"a": 1, "b": "x"}\n```', "", ""),
    "a fence with text after it": ('```json\n{"a": 1, "b": "x"}\n```\nDone.', "", ""),
    "two fences": ('```json\n{"a": 1, "b": "x"}\n```\n```json\n{"a": 1, "b": "x"}\n```', "", ""),
    "a fence never closed": ('```json\n{"a": 1, "b": "x"}', "", ""),
    "a fence in a string": ('{"a": 1, "b": "```json\\n{}\\n```"}', RIGHT, "a"),
    "a fenced null": ("```json\nnull\n```", "json fenced", ""),
    # strings
    "nested braces in a string": ('{"a": 1, "b": "{\\"b\\": \\"}{\\"}"}', RIGHT, "a"),
    "unicode escapes": ('{"\\u0061": 1, "b": "\\u0078"}', RIGHT, "ab"),
    "a surrogate pair": ('{"a": 1, "b": "\\ud83d\\ude00"}', RIGHT, "a"),
    "a lone surrogate, unwise but allowed": ('{"a": 1, "b": "\\ud800"}', RIGHT, "a"),
    "an escape cut short": ('{"a": 1, "b": "\\u00"}', "", ""),
    "a lone surrogate as a key": ('{"a": 1, "b": "x", "\\udfff": 0}', "json", "ab"),
    "a lone surrogate twice as a key": ('{"\\udfff": 1, "\\udfff": 0}', "", ""),
    # numbers
    "an integer past 2^53": ('{"a": 9007199254740993, "b": "x"}', RIGHT, "b"),
    "an integer of 5,000 digits": (f'{{"a": {"1" * 5000}, "b": "x"}}', RIGHT, "b"),
    "minus as many": (f'{{"a": -{"1" * 5000}, "b": "x"}}', RIGHT, "b"),
    "5,000 digits where a string is due": (f'{{"a": 1, "b": {"1" * 5000}}}', "json", "a"),
    "a float past all floats": ('{"a": 1e999, "b": "x"}', "json", "b"),
    # depth
    "an array nested as deep as may be": ("[" * DEEPEST_JSON + "]" * DEEPEST_JSON, "json", ""),
    "one deeper": ("[" * (DEEPEST_JSON + 1) + "]" * (DEEPEST_JSON + 1), "", ""),
    "an array nested very deeply": ("[" * DEEP + "]" * DEEP, "", ""),
    "objects nested very deeply": ('{"a":' * DEEP + "1" + "}" * DEEP, "", ""),
    # nothing
    "nothing at all": ("", "degenerate empty", ""),
    "white space only": (" \n\t ", "degenerate empty", ""),
    "an empty fence": ("```json\n```", "", ""),
    # words
    "a refusal": ("I'm sorry, but I can't help with that.", "refusal", ""),
    "a refusal with a curly apostrophe": ("I\u2019m sorry.", "refusal", ""),
    "a refusal further on": ("The text is long. I cannot read it.", "", ""),
    "a refusal inside JSON": ('{"a": 1, "b": "I cannot answer."}', RIGHT, "a"),
    "a refusal as a JSON string": ('"I cannot answer."', "json", ""),
    "the same word for ever": ("law " * 40, "degenerate", ""),
    "bytes that are no text": ('{"a": 1, "b": "\ufffd"}', "json schema degenerate", "a"),
}


@pytest.mark.parametrize(("text", "flags", "right"), CASES.values(), ids=CASES)
def test_the_verdict_on(text: str, flags: str, right: str) -> None:
    verdict = verdict_on(text)
    assert {flag for flag in FLAGS if getattr(verdict, flag)} == set(flags.split())
    assert verdict.fields == {name: float(name in right) for name in "ab"}
    assert (verdict.reason is None) == verdict.schema
    assert verdict.characters == len(text)
    json.dumps(asdict(verdict), ensure_ascii=False).encode()


def test_the_same_verdict_comes_however_deep_the_caller_stands() -> None:
    text = "[" * DEEPEST_JSON + "]" * DEEPEST_JSON

    def deeper(levels: int) -> Verdict:
        return verdict_on(text) if levels == 0 else deeper(levels - 1)

    assert deeper(sys.getrecursionlimit() // 2) == verdict_on(text)


def test_an_integer_of_thousands_of_digits_keeps_its_value() -> None:
    value, _ = parse("1" + "0" * 5000)
    assert value == 10**5000
    assert "digits" in repr(value)


@pytest.mark.parametrize("opening", REFUSALS)
def test_a_refusal_is_known_by_its_opening(opening: str) -> None:
    assert verdict_on(f" {opening.capitalize()} do this.").refusal


class TestTheReason:
    def test_says_what_is_not_json(self) -> None:
        reason = verdict_on('{"a": 1, "a": 2}').reason
        assert reason == "not JSON: the key 'a' stands twice"

    def test_names_the_field_that_breaks_the_schema(self) -> None:
        assert (
            verdict_on('{"a": "1", "b": "x"}').reason == "a: '1' is not of type 'integer', 'null'"
        )

    def test_does_not_spell_out_a_huge_integer(self) -> None:
        reason = verdict_on(f'{{"a": 1, "b": {"1" * 5000}}}').reason
        assert reason == "b: an integer of about 5,000 digits is not of type 'string'"

    def test_a_number_too_large_for_a_check_is_a_fault_not_a_crash(self) -> None:
        schema = {"type": "object", "properties": {"a": {"multipleOf": 0.5}}}
        verdict = judge(f'{{"a": {10**400}}}', RECORD, schema, SCORING)
        assert verdict.json and not verdict.schema
        assert verdict.reason == "a number is too large to be held against the schema"


class TestTheFields:
    def test_are_not_judged_where_the_record_is_another_kind(self) -> None:
        scoring = SCORING | {"a": FieldScoring(metric="exact", where={"b": "y"})}
        assert judge('{"a": 1, "b": "x"}', RECORD, SCHEMA, scoring).fields == {"a": None, "b": 1.0}
        assert judge("no", RECORD, SCHEMA, scoring).fields == {"a": None, "b": 0.0}

    def test_know_where_gold_is_null(self) -> None:
        verdict = verdict_on('{"a": null, "b": "x"}', gold={"a": None, "b": "x"})
        assert verdict.fields == {"a": 1.0, "b": 1.0}
        assert verdict.nonnull == {"a": False, "b": True}

    def test_may_be_left_out_where_gold_is_null_only_if_the_schema_lets_them(self) -> None:
        gold = {"a": None, "b": "x"}
        record = Record(id="r1", input="x", gold=gold)
        optional = SCHEMA | {"required": ["b"]}
        assert judge('{"b": "x"}', record, optional, SCORING).fields["a"] == 1.0
        assert judge('{"b": "x"}', record, SCHEMA, SCORING).fields["a"] == 0.0
        assert judge('{"a": null}', record, optional, SCORING).fields == {"a": 1.0, "b": 0.0}

    def test_have_a_second_figure_where_one_is_asked_for(self) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "string"}}}
        scoring = {"n": FieldScoring(metric="number", also="token_f1")}
        record = Record(id="r1", input="x", gold={"n": "$14.8 billion"})
        verdict = judge('{"n": "14.80"}', record, schema, scoring)
        assert verdict.fields == {"n": 0.0}
        assert verdict.second == {"n.token_f1": pytest.approx(2 / 3)}
        assert judge("no", record, schema, scoring).second == {"n.token_f1": 0.0}


class TestGarbage:
    def test_is_the_same_word_over_and_over(self) -> None:
        assert is_degenerate("the " * 30)

    def test_is_an_empty_answer(self) -> None:
        assert is_degenerate("  \n")

    def test_is_not_a_short_or_a_plain_answer(self) -> None:
        assert not is_degenerate("No.")
        assert not is_degenerate("The court has no jurisdiction because the parties share a state.")


class TestEquality:
    def test_true_is_not_one(self) -> None:
        assert not same(True, 1)
        assert not same([True], [1])
        assert not same({"a": 0}, {"a": False})

    def test_numbers_are_equal_by_value(self) -> None:
        assert same(1, 1.0)
        assert not same(2**53 + 1, float(2**53))

    def test_lists_keep_their_order(self) -> None:
        assert same(["a", "b"], ["a", "b"])
        assert not same(["a", "b"], ["b", "a"])

    def test_text_is_not_a_number(self) -> None:
        assert not same("1", 1)
