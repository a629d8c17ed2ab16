"""schema.json as one EBNF text, which XGrammar reads alike in Python and in a page.

XGrammar's own converter takes much that it does not enforce: bounds of numbers, `uniqueItems`, `not`,
`allOf`. Here every keyword is enforced, or refused by its name and path. White space is what
`json.dumps` writes, keys come in the schema's order, and an object has no key that is not named.
"""

import difflib
import json
import math
from collections.abc import Callable
from decimal import Decimal
from itertools import combinations
from typing import Any

import jsonschema

from shared.base.errors import UserError
from shared.base.parsing import nearest
from shared.domain.grammar.number import integer, number
from shared.domain.grammar.pattern import FORMATS, PLAIN, literal, pattern

NOTES = frozenset(
    "title description default examples deprecated readOnly writeOnly discriminator contentEncoding "
    "contentMediaType $schema $id $comment $defs definitions".split()
)
"""Keywords that say nothing about which answers are right."""
BESIDE: dict[str, frozenset[str]] = {
    "string": frozenset("minLength maxLength pattern format".split()),
    "number": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum".split()),
    "array": frozenset("items prefixItems minItems maxItems".split()),
    "object": frozenset(
        "properties required additionalProperties minProperties maxProperties".split()
    ),
}
"""The keywords of each type."""
COUNTS = frozenset("minLength maxLength minItems maxItems minProperties maxProperties".split())
WHOLE = ("$ref", "anyOf", "oneOf", "allOf")
KNOWN = frozenset((*WHOLE, "enum", "const", "type")).union(*BESIDE.values())
TYPES = ("object", "array", "string", "number", "boolean", "null")
HEX = "[0-9A-Fa-f]"
BASIC = {
    "string": r'"\"" text',
    "text": rf'("\"" | {PLAIN} text | "\\" escape text) (= [,}}\]:])',
    "escape": (
        r'["\\/bfnrt] | "u" ('
        f"[0-9A-CE-Fa-ce-f] {HEX}{{3}} | [Dd] [0-7] {HEX}{{2}} | "
        rf'[Dd] [89ABab] {HEX}{{2}} "\\u" [Dd] [C-Fc-f] {HEX}{{2}})'
    ),
    "integer": '"0" | "-"? [1-9] [0-9]*',
    "number": '"-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [+\\-]? [0-9]+)?',
    "any": '"null" | "true" | "false" | number | string | anyArray | anyObject',
    "anyArray": '"[]" | "[" any (", " any)* "]"',
    "anyObject": r'"{}" | "{" string ": " any (", " string ": " any)* "}"',
}
"""Half of a surrogate pair is never written; `text` is a string from within to its end."""
COMMA = '", " '


def grammar(schema: dict[str, Any], where: str = "schema.json") -> str:
    """The EBNF text; UserError in one sentence for what cannot be enforced. `where`: the file."""
    whole = _whole_counts(schema)
    writer = _Writer(whole, where)
    writer.rules["root"] = writer.value(whole, "")
    return "".join(f"{name} ::= {body}\n" for name, body in {**writer.rules, **BASIC}.items())


def _whole_counts(schema: Any) -> Any:
    """The same with every count an int: JSON Schema takes `"maxItems": 5.0` for one, too."""
    if isinstance(schema, list):
        return [_whole_counts(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    counts = {key: int(v) for key, v in schema.items() if key in COUNTS and isinstance(v, float)}
    return {key: _whole_counts(value) for key, value in schema.items()} | counts


class _Writer:
    """Rules by name, as they are met; a path is a JSON pointer into the file."""

    def __init__(self, root: dict[str, Any], where: str) -> None:
        self.rules: dict[str, str] = {}
        self._root, self._where = root, where
        self._names: dict[str, str] = {}
        self._open: list[str] = []  # references followed since the last brace or bracket

    def value(self, schema: Any, path: str) -> str:
        """An expression for the values that `schema` allows."""
        if schema is True:
            return "any"
        if schema is False:
            raise self._refused(path, "allows no value at all")
        self._refuse_unknown(schema, path)
        if "enum" in schema or "const" in schema:
            return self._listed(schema, path)
        for key in WHOLE:
            if key in schema:
                return self._whole(key, schema, path)
        types = schema.get("type", TYPES)
        types = [types] if isinstance(types, str) else types
        return " | ".join(f"({self._typed(name, schema, path)})" for name in types)

    def _refused(self, path: str, why: str) -> UserError:
        return UserError(f"{self._where}: {path or '/'}: {why}")

    def _refuse_unknown(self, schema: dict[str, Any], path: str) -> None:
        for key in schema:
            if key not in KNOWN and key not in NOTES and not key.startswith("x-"):
                close = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.8)
                hint = f"did you mean {close[0]!r}?" if close else "leave it out"
                raise self._refused(f"{path}/{key}", f"answers cannot be held to {key}; {hint}")

    def _whole(self, key: str, schema: dict[str, Any], path: str) -> str:
        """What stands for the whole schema, and so has only notes beside it."""
        others = [other for other in schema if other in KNOWN and other != key]
        if others:
            why = f"answers cannot be held to {key} and {others[0]} together; write one of them"
            raise self._refused(f"{path}/{key}", why)
        if key == "$ref":
            return self._referred(schema[key], f"{path}/$ref")
        branches = schema[key]
        if key == "allOf" and len(branches) > 1:
            why = "answers cannot be held to allOf of several; write them as one schema"
            raise self._refused(f"{path}/allOf", why)
        if key == "oneOf":
            self._refuse_overlap(branches, f"{path}/oneOf")
        found = (self.value(one, f"{path}/{key}/{place}") for place, one in enumerate(branches))
        return " | ".join(f"({one})" for one in found)

    def _referred(self, target: str, path: str) -> str:
        if target in self._open:
            raise self._refused(path, f"{target!r} only leads to itself")
        if target not in self._names:
            self._names[target] = f"ref{len(self._names)}"
            schema = self._target(target, path)
            self._open.append(target)
            self.rules[self._names[target]] = self.value(schema, target.removeprefix("#"))
            self._open.remove(target)
        return self._names[target]

    def _target(self, target: str, path: str) -> Any:
        """What a reference leads to in the end."""
        seen = [target]
        while True:
            found = self._at(seen[-1], path)
            further = found.get("$ref") if isinstance(found, dict) else None
            if further is None or found is self._root:
                return found
            if others := sorted((found.keys() & KNOWN) - {"$ref"}):
                why = f"answers cannot be held to $ref and {others[0]} together; write one of them"
                raise self._refused(f"{seen[-1].removeprefix('#')}/$ref", why)
            if further in seen:
                raise self._refused(path, f"{further!r} only leads to itself")
            seen.append(further)

    def _at(self, target: str, path: str) -> Any:
        found: Any = self._root
        try:
            first, *steps = target.split("/")
            if first != "#":
                raise KeyError(first)
            for step in steps:
                key = step.replace("~1", "/").replace("~0", "~")
                found = found[int(key) if isinstance(found, list) else key]
        except (LookupError, TypeError, ValueError):
            why = f"{target!r} is not in this file; write '#/$defs/…'"
            raise self._refused(path, why) from None
        return found

    def _refuse_overlap(self, branches: list[Any], path: str) -> None:
        for (i, one), (j, other) in combinations(enumerate(branches), 2):
            if not self._are_disjoint(one, other, path):
                why = f"branches {i} and {j} could both be right; write anyOf, or a const that differs"
                raise self._refused(path, why)

    def _are_disjoint(self, one: Any, other: Any, path: str) -> bool:
        """Whether no value is right under both: by type, by const, or by a required key's const."""
        one, other = (self._resolved(schema, path) for schema in (one, other))
        listed = [_listed_values(schema) for schema in (one, other)]
        if listed[0] is not None and listed[1] is not None:
            return not set(listed[0]) & set(listed[1])
        types = [_types(schema) for schema in (one, other)]
        if not types[0] & types[1]:
            return True
        if types[0] | types[1] != {"object"}:
            return False
        shared = set(one.get("required", ())) & set(other.get("required", ()))
        return any(
            self._are_disjoint(one["properties"][key], other["properties"][key], path)
            for key in sorted(shared)
            if key in one.get("properties", {}) and key in other.get("properties", {})
        )

    def _resolved(self, schema: Any, path: str) -> Any:
        is_reference = isinstance(schema, dict) and "$ref" in schema
        return self._target(schema["$ref"], path) if is_reference else schema

    def _listed(self, schema: dict[str, Any], path: str) -> str:
        """The values of enum or const that keep to what else the schema says."""
        validator = jsonschema.Draft202012Validator(self._root).evolve(schema=schema)
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        spelled = [json.dumps(v, ensure_ascii=False) for v in values if validator.is_valid(v)]
        if not spelled:
            raise self._refused(path, "allows no value at all")
        return " | ".join(literal(text) for text in dict.fromkeys(spelled))

    def _typed(self, name: str, schema: dict[str, Any], path: str) -> str:
        if name in ("boolean", "null"):
            return {"boolean": '"true" | "false"', "null": '"null"'}[name]
        if name in ("integer", "number"):
            return self._guarded(lambda: _number(name, schema), path)
        if name == "string":
            return self._string(schema, path)
        outer, self._open = self._open, []
        try:
            return (self._array if name == "array" else self._object)(schema, path)
        finally:
            self._open = outer

    def _guarded(self, work: Callable[[], str], path: str) -> str:
        try:
            return work()
        except ValueError as error:
            raise self._refused(path, f"answers cannot be held to it: {error}") from None

    def _string(self, schema: dict[str, Any], path: str) -> str:
        has = [key for key in ("pattern", "format", "minLength", "maxLength") if key in schema]
        if len(has) > 1 and has[0] in ("pattern", "format"):
            why = f"answers cannot be held to {has[0]} and {has[1]} together; write one pattern"
            raise self._refused(f"{path}/{has[1]}", why)
        if not has:
            return "string"
        if schema.get("minLength", 0) > schema.get("maxLength", math.inf):
            raise self._refused(path, "minLength is greater than maxLength")
        if has == ["minLength"]:
            return rf'"\"" {PLAIN}{{{schema["minLength"]}}} text'
        if "pattern" in has:
            inner = self._guarded(lambda: pattern(schema["pattern"]), f"{path}/pattern")
        elif "format" in has:
            inner = self._format(schema["format"], f"{path}/format")
        else:
            inner = f"{PLAIN}{_counted(schema.get('minLength', 0), schema.get('maxLength'))}"
        return rf'"\"" ({inner}) "\""'

    def _format(self, name: str, path: str) -> str:
        if name not in FORMATS:
            why = f"answers cannot be held to format {name!r}; {nearest(name, list(FORMATS))}"
            raise self._refused(path, why)
        return pattern(f"^({FORMATS[name]})$")

    def _array(self, schema: dict[str, Any], path: str) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        first = schema.get("prefixItems", [])
        items = schema.get("items", not first)
        if most is not None and most < least:
            raise self._refused(path, "minItems is greater than maxItems")
        first = first[:most] if most is not None else first
        begin = [self.value(one, f"{path}/prefixItems/{i}") for i, one in enumerate(first)]
        rest = None if items is False else self._rule(self.value(items, f"{path}/items"), "item")
        if rest is None and least > len(begin):
            raise self._refused(path, "minItems is more than there are items")
        return f'"[" {_list(begin, rest, least, most)} "]"'

    def _object(self, schema: dict[str, Any], path: str) -> str:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", not properties)
        required = schema.get("required", [])
        if others is not False and (properties or required):
            why = "answers cannot be held to it beside named properties; write false"
            raise self._refused(f"{path}/additionalProperties", why)
        if others is not False:
            return self._map(schema, others, path)
        for key in ("minProperties", "maxProperties"):
            if key in schema:
                why = f"answers cannot be held to {key} beside named properties; use required"
                raise self._refused(f"{path}/{key}", why)
        missing = [key for key in required if key not in properties]
        if missing:
            raise self._refused(f"{path}/required", f"{missing[0]!r} is no property")
        parts = [
            (f"{_key(key)} ({self.value(one, f'{path}/properties/{key}')})", key in required)
            for key, one in properties.items()
        ]
        return f'"{{" {self._members(parts)} "}}"'

    def _members(self, parts: list[tuple[str, bool]]) -> str:
        """Properties in their order; what is not required may be missing."""
        after = '""'
        starts = ['""']
        for part, is_required in reversed(parts):
            here = self._rule(part, "member")
            starts = ([] if is_required else starts) + [f"{here} {after}"]
            follow = f'", " {here} {after}'
            after = self._rule(follow if is_required else f"{follow} | {after}", "rest")
        return f"({' | '.join(reversed(starts))})"

    def _map(self, schema: dict[str, Any], others: Any, path: str) -> str:
        """An object whose keys are free. A key may come twice, so no more than one is sure."""
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        if least > 1:
            why = "answers cannot be held to it: a key could come twice; write 1 or less"
            raise self._refused(f"{path}/minProperties", why)
        value = self._rule(self.value(others, f"{path}/additionalProperties"), "value")
        entry = self._rule(f'string ": " {value}', "entry")
        return f'"{{" {_list([], entry, least, most)} "}}"'

    def _rule(self, body: str, kind: str) -> str:
        name = f"{kind}{len(self.rules)}"
        self.rules[name] = body
        return name


def _key(key: str) -> str:
    return literal(json.dumps(key, ensure_ascii=False) + ": ")


def _counted(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _list(begin: list[str], rest: str | None, least: int, most: int | None) -> str:
    """`begin` in turn, then `rest` again and again; from `least` to `most` in all."""
    more = ""
    if rest and (most is None or most > len(begin)):
        free = (max(least - len(begin), 0), None if most is None else most - len(begin))
        if begin:
            more = f'(", " {rest}){_counted(*free)}'
        else:
            low, high = max(free[0] - 1, 0), free[1] and free[1] - 1
            more = f'{rest} (", " {rest}){_counted(low, high)}'
            more = more if least else f"({more})?"
    for place in reversed(range(len(begin))):
        here = f"{COMMA if place else ''}({begin[place]}) {more}"
        more = here if place < least else f"({here})?"
    return more or '""'


def _number(name: str, schema: dict[str, Any]) -> str:
    lows = [(k, Decimal(str(schema[k]))) for k in ("minimum", "exclusiveMinimum") if k in schema]
    highs = [(k, Decimal(str(schema[k]))) for k in ("maximum", "exclusiveMaximum") if k in schema]
    if not lows and not highs:
        return name
    low, open_low = max(((v, k != "minimum") for k, v in lows), default=(None, False))
    high, shut = min(((v, k == "maximum") for k, v in highs), default=(None, True))
    if name == "number":
        return number(low, high, open_low, not shut)
    least = None if low is None else _up(low, open_low)
    return integer(least, None if high is None else -_up(-high, not shut))


def _up(value: Decimal, is_open: bool) -> int:
    """The least integer at or, where it is open, above `value`."""
    whole = int(value.to_integral_value("ROUND_CEILING"))
    return whole + 1 if is_open and whole == value else whole


def _types(schema: Any) -> set[str]:
    """The types that a schema allows; integers are numbers."""
    values = _listed_values(schema)
    if values is not None:
        return {_type(json.loads(value)) for value in values}
    types = schema.get("type", TYPES) if isinstance(schema, dict) else TYPES
    types = [types] if isinstance(types, str) else types
    return {"number" if name == "integer" else name for name in types}


def _type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _listed_values(schema: Any) -> list[str] | None:
    if not isinstance(schema, dict) or not {"enum", "const"} & schema.keys():
        return None
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in values)
    return [json.dumps(value, sort_keys=True) for value in whole]
