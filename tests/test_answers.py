"""Answers are judged strictly; each adversarial answer has its expected verdict."""

from __future__ import annotations

from typing import Any

import pytest

from shared.evaluate.answers import is_complete, is_degenerate, judge, same

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": ["integer", "null"]}, "b": {"type": "string"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
GOLD = {"a": 1, "b": "x"}

CASES = {
    "the gold itself": ('{"a": 1, "b": "x"}', True, True, 2),
    "white space around it": (' \n{"a": 1, "b": "x"}\n', True, True, 2),
    "null where null may stand": ('{"a": null, "b": "x"}', True, True, 1),
    "a fenced json block": ('```json\n{"a": 1, "b": "x"}\n```', True, True, 2),
    "a bare fence": ('```\n{"a": 1, "b": "x"}\n```', True, True, 2),
    "braces inside a string": ('{"a": 1, "b": "}{"}', True, True, 1),
    "unicode escapes": ('{"a": 1, "b": "\\u0078"}', True, True, 2),
    "a huge integer": ('{"a": 1' + "0" * 80 + ', "b": "x"}', True, True, 1),
    "a number as a string": ('{"a": "1", "b": "x"}', True, False, 1),
    "true for 1": ('{"a": true, "b": "x"}', True, False, 1),
    "an extra key": ('{"a": 1, "b": "x", "c": 0}', True, False, 2),
    "a missing key": ('{"a": 1}', True, False, 1),
    "an array": ("[1]", True, False, 0),
    "the word null": ("null", True, False, 0),
    "NaN": ('{"a": NaN, "b": "x"}', False, False, 0),
    "Infinity": ('{"a": Infinity, "b": "x"}', False, False, 0),
    "duplicate keys": ('{"a": 1, "a": 1, "b": "x"}', False, False, 0),
    "text after it": ('{"a": 1, "b": "x"} Hope this helps!', False, False, 0),
    "text before it": ('Here: {"a": 1, "b": "x"}', False, False, 0),
    "single quotes": ("{'a': 1, 'b': 'x'}", False, False, 0),
    "a trailing comma": ('{"a": 1, "b": "x",}', False, False, 0),
    "cut in the middle": ('{"a": 1, "b": "', False, False, 0),
    "nothing at all": ("", False, False, 0),
}


@pytest.mark.parametrize(("text", "json", "schema", "right"), CASES.values(), ids=CASES)
def test_the_verdict_on(text: str, json: bool, schema: bool, right: int) -> None:
    verdict = judge(text, GOLD, SCHEMA)
    assert (verdict.json, verdict.schema, sum(verdict.fields.values())) == (json, schema, right)
    assert (verdict.reason is None) == schema


def test_a_fence_is_counted_as_such() -> None:
    assert judge('```json\n{"a": 1, "b": "x"}\n```', GOLD, SCHEMA).fenced
    assert not judge('{"a": 1, "b": "x"}', GOLD, SCHEMA).fenced


class TestGenerationStops:
    def test_at_a_complete_object(self) -> None:
        assert is_complete('{"a": {"b": 1}}')

    def test_not_inside_one(self) -> None:
        assert not is_complete('{"a": {"b": 1}')
        assert not is_complete('{"a": "}')

    def test_not_at_a_bare_value(self) -> None:
        assert not is_complete("null")


class TestGarbage:
    def test_is_the_same_word_over_and_over(self) -> None:
        assert is_degenerate("the " * 30)

    def test_is_an_empty_answer(self) -> None:
        assert is_degenerate("  \n")

    def test_is_not_a_short_or_a_plain_answer(self) -> None:
        assert not is_degenerate("No.")
        assert not is_degenerate("The court has no jurisdiction because the parties share a state.")


def test_true_is_not_one() -> None:
    assert not same(True, 1)
    assert same(["a"], ["a"])
