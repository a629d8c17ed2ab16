"""schema.json as a grammar: what the schema says is what may be written, and nothing is let through."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import product
from typing import Any

import jsonschema
import pytest
import xgrammar
from xgrammar.testing import _is_grammar_accept_string as accepts

from shared.base.errors import UserError
from shared.domain.grammar.number import integer, number
from shared.domain.grammar.schema import grammar

NODE = {
    "type": "object",
    "properties": {
        "v": {"type": "integer"},
        "k": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    },
    "required": ["v"],
    "additionalProperties": False,
}


def kind(name: str, **properties: Any) -> dict[str, Any]:
    fields = {"kind": {"const": name}, **properties}
    return {"type": "object", "properties": fields, "required": [*fields]}


def text(**keywords: Any) -> dict[str, Any]:
    return {"type": "string", **keywords}


def array(**keywords: Any) -> dict[str, Any]:
    return {"type": "array", **keywords}


def integers(names: str, **keywords: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {n: {"type": "integer"} for n in names}, **keywords}


INTEGER, STRING, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}
CASES: list[tuple[Any, list[Any]]] = [
    (text(pattern=r"^[A-Z]{2}\d{3}$"), ["AB123", "AB12", "ab123", "AB1234"]),
    (text(pattern=r"\d+"), ["a1b", "abc", "7"]),
    (text(pattern="^a|b$"), ["axx", "xxb", "xx", "ab"]),
    (text(pattern="^yes$|^no$"), ["yes", "no", "yes no", "y"]),
    (text(pattern="^[а-я]+$"), ["привет", "abc", "приx"]),
    (text(pattern="^.{1,3}$"), ["日本", "abcd", "", "é"]),
    (text(pattern=r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$"), ["a@b.de", "a@b", "a b@c.de", "é@b.de"]),
    (text(pattern="^(?:foo|bar)?-x*$"), ["foo-", "bar-xx", "-", "foo", "baz-"]),
    (
        text(format="date"),
        ["2024-02-29", "2023-02-29", "2024-13-01", "2024-04-31", "1900-02-29", "2000-02-29"],
    ),
    (text(minLength=1), ["", "a", "日", 'x"']),
    (text(minLength=2, maxLength=4), ["a", "ab", "日本語x", "abcde"]),
    (text(), ["", 'a"\\\n\t', "😀"]),
    (array(items=INTEGER), [[], [1], [1, 2, 3], ["a"]]),
    (array(items=INTEGER, minItems=1, maxItems=3), [[], [1], [1, 2, 3], [1, 2, 3, 4]]),
    (array(items=INTEGER, maxItems=2), [[], [1], [1, 2], [1, 2, 3]]),
    (array(items=INTEGER, minItems=2), [[], [1], [1, 2], [1, 2, 3]]),
    (array(maxItems=0), [[], [1]]),
    (
        array(prefixItems=[INTEGER, STRING], minItems=2, maxItems=2),
        [[1, "a"], [1], ["a", 1], [1, "a", 2]],
    ),
    (
        array(prefixItems=[INTEGER, STRING], items=NULL, minItems=1, maxItems=3),
        [[], [1], [1, "a"], [1, "a", None], [1, "a", None, None], [1, None]],
    ),
    (array(prefixItems=[INTEGER], items=NULL, minItems=3), [[1], [1, None], [1, None, None]]),
    (integers("a", required=["a"]), [{"a": 1}, {}, {"a": "x"}]),
    (
        integers("abcd", required=["b"], additionalProperties=False),
        [{"b": 1}, {"a": 1, "b": 1}, {"b": 1, "d": 1}, {"a": 1}, {}, {"a": 1, "c": 1}],
    ),
    (integers("abc"), [{"b": 1}, {"a": 1, "b": 1}, {}, {"c": 1}, {"a": 1, "c": 3}]),
    (integers("", additionalProperties=False), [{}, {"x": 1}]),
    (
        {"type": "object", "additionalProperties": {"type": "number"}},
        [{}, {"x": 1.5}, {"x": 1, "y\n": 2}, {"x": "a"}],
    ),
    (
        {"type": "object", "additionalProperties": STRING, "minProperties": 1, "maxProperties": 2},
        [{}, {"x": "1"}, {"x": "1", "y": "2"}, {"x": "1", "y": "2", "z": "3"}],
    ),
    ({"anyOf": [INTEGER, NULL]}, [1, None, "x"]),
    ({"type": ["integer", "null"], "minimum": 3}, [1, 3, 10, None]),
    ({"enum": ["a/b", "日本", 'q"', 1, None, {"a": [1, 2]}]}, ["a/b", "日本", 'q"', 1, None, "a"]),
    ({"enum": [{"a": [1, 2]}]}, [{"a": [1, 2]}, {"a": [1]}]),
    (text(enum=["a", 1, "bb"], maxLength=1), ["a", 1, "bb"]),
    (
        {"oneOf": [kind("a", x=INTEGER), kind("b")]},
        [{"kind": "a", "x": 1}, {"kind": "b"}, {"kind": "a"}, {"kind": "c"}],
    ),
    ({"oneOf": [INTEGER, STRING, {"enum": [None, True]}]}, [1, "a", None, True, False]),
    (
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        [{"v": 1}, {"v": 1, "k": [{"v": 2}, {"v": 3, "k": []}]}, {"k": []}, {"v": 1, "k": [{}]}],
    ),
    (
        {"type": "object", "properties": {"c": {"$ref": "#"}}, "additionalProperties": False},
        [{}, {"c": {"c": {}}}, {"c": 1}],
    ),
    ({"definitions": {"a~/b": INTEGER}, "allOf": [{"$ref": "#/definitions/a~0~1b"}]}, [1, "a"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [0, 0.5, 1, 1.5, -1]),
    ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10.5}, [0, 1, 10, 11]),
    ({}, [1, "a", {"a": [True, {"b": None}]}, [[]], 1.5e10]),
    (
        {"type": "object", "properties": {"a": True, "b": {"type": "boolean"}}, "required": ["a"]},
        [{"a": {"x": [1]}}, {"a": 1, "b": True}, {"b": True}],
    ),
]


@pytest.mark.parametrize(("schema", "values"), CASES, ids=lambda one: json.dumps(one)[:60])
def test_what_may_be_written_is_what_the_schema_allows(schema: Any, values: list[Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    written = xgrammar.Grammar.from_ebnf(grammar(schema))
    allowed = {json.dumps(value): accepts(written, spelled(value)) for value in values}
    assert allowed == {json.dumps(value): validator.is_valid(value) for value in values}


def spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("time", ["23:59:59Z", "08:00:00.5+02:00"], ["24:00:00Z", "08:00:00"]),
        ("date-time", ["2024-02-29T10:00:00Z"], ["2024-02-29 10:00:00Z", "2024-02-30T10:00:00Z"]),
        ("duration", ["P1Y2M3DT4H5M6S", "PT36H", "P2W"], ["P", "PT", "1D"]),
        ("email", ["a.b@x.de"], ["a@b", "@x.de", "a b@x.de"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ("ipv4", ["192.168.0.1"], ["256.1.1.1", "1.2.3"]),
        ("hostname", ["a-b.example"], ["-a.example"]),
        ("uri", ["https://a.example/b?c=d#e"], ["a b", "//a"]),
    ],
)
def test_formats_are_kept(name: str, right: list[str], wrong: list[str]) -> None:
    written = xgrammar.Grammar.from_ebnf(grammar(text(format=name)))
    assert [accepts(written, spelled(value)) for value in right] == [True] * len(right)
    assert [accepts(written, spelled(value)) for value in wrong] == [False] * len(wrong)


@pytest.mark.parametrize("answer", ['"\n"', '"\t"', '"\\ud800"', '"\\q"', "01", '{"a":1}', "+1"])
def test_nothing_is_written_that_is_not_json_as_dumps_spaces_it(answer: str) -> None:
    for schema in ({}, text(), text(minLength=1, maxLength=9), text(pattern="^.*$")):
        assert not accepts(xgrammar.Grammar.from_ebnf(grammar(schema)), answer)


@pytest.mark.parametrize(
    ("low", "high"),
    [(3, None), (None, 7), (1, 120), (-5, 1200), (-20, -3), (None, -4), (0, 0), (199, 2005)],
)
def test_integers_keep_within_their_bounds(low: int | None, high: int | None) -> None:
    written = xgrammar.Grammar.from_ebnf(f"root ::= {integer(low, high)}")
    found = {n for n in range(-1300, 2100) if accepts(written, str(n))}
    least, most = -1300 if low is None else low, 2099 if high is None else high
    assert found == set(range(least, most + 1))


BOUNDS = [None, *map(Decimal, ("0", "0.1", "1.5", "-1.5", "12", "0.099"))]
WRITTEN = "0 0.0 1 0.10 -0.5 0.05 0.11 1.5 1.50 1.51 12 12.01 -1.5 -1.49 -10 0.099 0.0001 11.99 1."


@pytest.mark.parametrize(("low", "high"), list(product(BOUNDS, BOUNDS)))
@pytest.mark.parametrize("is_open", [False, True])
def test_numbers_keep_within_their_bounds(
    low: Decimal | None, high: Decimal | None, is_open: bool
) -> None:
    def within(value: Decimal) -> bool:
        above = low is None or value > low or (value == low and not is_open)
        return above and (high is None or value < high or (value == high and not is_open))

    right = {word for word in WRITTEN.split() if not word.endswith(".") and within(Decimal(word))}
    try:
        written = xgrammar.Grammar.from_ebnf(f"root ::= {number(low, high, is_open, is_open)}")
    except ValueError:
        assert not right
    else:
        assert {word for word in WRITTEN.split() if accepts(written, word)} == right


LOOP = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (array(uniqueItems=True), "/uniqueItems: answers cannot be held to uniqueItems"),
        ({"not": {}}, "/not: answers cannot be held to not; leave it out"),
        ({"if": {}, "then": {}}, "/if: answers cannot be held to if"),
        ({"dependentRequired": {}}, "/dependentRequired: "),
        ({"type": "object", "patternProperties": {}}, "/patternProperties: "),
        ({"type": "object", "propertyNames": {}}, "/propertyNames: "),
        (array(contains={}), "/contains: "),
        ({"unevaluatedProperties": False}, "/unevaluatedProperties: "),
        (text(minlength=3), "/minlength: answers cannot be held to minlength; did you mean 'minLe"),
        ({"allOf": [{}, {}]}, "/allOf: answers cannot be held to allOf of several"),
        ({"anyOf": [INTEGER], "type": "integer"}, "/anyOf: answers cannot be held to anyOf and ty"),
        ({"oneOf": [INTEGER, {"type": "number"}]}, "/oneOf: branches 0 and 1 could both be right"),
        ({"$ref": "other.json"}, "/$ref: 'other.json' is not in this file"),
        ({"$ref": "#/$defs/x"}, "/$ref: '#/$defs/x' is not in this file"),
        ({"$defs": LOOP, "$ref": "#/$defs/a"}, "/$ref: '#/$defs/a' only leads to itself"),
        ({"anyOf": [{"$ref": "#"}, NULL]}, "/anyOf/0/$ref: '#' only leads to itself"),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 5}}},
            "/properties/a/multipleOf: answers cannot be held to multipleOf",
        ),
        (integers("a", additionalProperties=True), "/additionalProperties: "),
        (integers("a", minProperties=1), "/minProperties: "),
        (
            {"type": "object", "minProperties": 2},
            "/minProperties: answers cannot be held to it: a k",
        ),
        (integers("a", required=["b"]), "/required: 'b' is no property"),
        (text(pattern="(?=a)b"), "/pattern: answers cannot be held to it: assert is not known"),
        (text(pattern=r"\bx"), "/pattern: answers cannot be held to it: '^' may stand"),
        (
            text(pattern="[一-龥]+"),
            "/pattern: answers cannot be held to it: a class with more than",
        ),
        (text(pattern="("), "/pattern: answers cannot be held to it: it is no regular expression"),
        (
            text(pattern="a", maxLength=3),
            "/maxLength: answers cannot be held to pattern and maxLen",
        ),
        (
            text(format="iri"),
            "/format: answers cannot be held to format 'iri'; did you mean 'uri'?",
        ),
        (
            {"type": "integer", "minimum": 5, "maximum": 3},
            "/: answers cannot be held to it: no num",
        ),
        (array(items=False, minItems=1), "/: minItems is more than there are items"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_keyword_and_path(schema: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        grammar(schema, "domains/legal/schema.json")
    assert str(error.value).startswith(f"domains/legal/schema.json: {words}")


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength is greater than maxLength"),
        ({"$ref": "#/$defs/B"}, r"/\$defs/B/\$ref: answers cannot be held to \$ref and maxLength"),
    ],
)
def test_what_would_go_unenforced_is_refused(field: dict[str, Any], why: str) -> None:
    defs = {"A": {"type": "string"}, "B": {"$ref": "#/$defs/A", "maxLength": 3}}
    with pytest.raises(UserError, match=why):
        grammar({"$defs": defs, "properties": {"a": field}, "additionalProperties": False})


def test_a_count_may_be_written_with_a_point() -> None:
    def written(count: float) -> str:
        text = {"type": "string", "maxLength": count}
        return grammar({"type": "array", "items": text, "minItems": count, "maxItems": count})

    assert written(5.0) == written(5)
