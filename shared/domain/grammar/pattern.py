r"""A regular expression as EBNF for what stands between a JSON string's quotation marks.

It is read by Python's own parser, as jsonschema reads it: it may match anywhere unless it is anchored.
`\d`, `\s`, `\w` are ASCII's. A class leaves out what JSON must escape, unless it has nothing else: `.`
never ends the string.
"""

import json
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

Ranges = list[tuple[int, int]]
"""Code points, from and to, both within."""

TOP = 0x10FFFF
ONE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
LONGEST_LIST = 256
"""Beyond ASCII XGrammar 0.1.29 matches single characters and all of them, but no range between."""
PLAIN = r'[^\x00-\x1f"\\]'
"""A character that JSON does not escape. It stands inline: a rule for it would leave every longer token
to be tried at each step."""
ASCII_CLASSES: dict[str, Ranges] = {
    "DIGIT": [(48, 57)],
    "SPACE": [(9, 13), (32, 32)],
    "WORD": [(48, 57), (65, 90), (95, 95), (97, 122)],
}

_DATE = (
    r"(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_DAYS = r"(((\d+Y)?\d+M)?\d+D|(\d+Y)?\d+M|\d+Y)"
_HOURS = r"((\d+H)?\d+M|(\d+H)?(\d+M)?\d+S|\d+H)"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": rf"P(\d+W|{_DAYS}(T{_HOURS})?|T{_HOURS})",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "email": rf"{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})+",
    "hostname": rf"{_LABEL}(\.{_LABEL})*",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f]{2})+",
}
"""The formats of JSON Schema that answers can be held to, as whole regular expressions."""


def pattern(regex: str) -> str:
    """An expression for the strings it matches. ValueError: what in it cannot be expressed."""
    try:
        parsed: Any = re._parser.parse(regex, re.ASCII)  # type: ignore[attr-defined]
    except (re.error, OverflowError) as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if parsed.state.flags & ~re.ASCII:
        raise ValueError("flags are not known here")
    return _anchored(list(parsed))


def literal(text: str) -> str:
    """A text as an EBNF string."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return char
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _anchored(items: list[Any]) -> str:
    """A whole alternative, with any text where it is not anchored."""
    if len(items) == 1 and str(items[0][0]) == "BRANCH":
        return " | ".join(f"({_anchored(list(branch))})" for branch in items[0][1][1])
    start = bool(items) and _is_at(items[0], "AT_BEGINNING")
    if (
        start and len(items) == 2 and str(items[1][0]) == "BRANCH"
    ):  # ^a$|^b$, its ^ taken out in front
        branches = ([items[0], *branch] for branch in items[1][1][1])
        return " | ".join(f"({_anchored(branch)})" for branch in branches)
    end = len(items) > start and _is_at(items[-1], "AT_END")
    inner = _sequence(items[start : len(items) - end])
    any_text = f"{PLAIN}*"
    return " ".join([*(() if start else (any_text,)), inner, *(() if end else (any_text,))])


def _is_at(item: Any, names: str) -> bool:
    return str(item[0]) == "AT" and str(item[1]).startswith(names)


def _sequence(items: Iterable[Any]) -> str:
    return " ".join(_item(str(name), value) for name, value in items) or '""'


def _item(name: str, value: Any) -> str:
    if name in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = value
        single = len(inner) == 1 and str(inner[0][0]) in ONE
        body = _sequence(inner) if single else f"({_sequence(inner)})"
        return f"{body}{_times(int(least), most)}"
    if name == "SUBPATTERN":
        _, added, removed, inner = value
        if added or removed:
            raise ValueError("flags are not known here")
        return f"({_sequence(inner)})"
    if name == "BRANCH":
        return "(" + " | ".join(_sequence(branch) for branch in value[1]) + ")"
    if name in ONE:
        return _characters(_ranges(name, value))
    if name == "AT":
        raise ValueError("'^' may stand at its start only, '$' at its end, and '\\b' nowhere")
    raise ValueError(f"{name.lower().replace('_', ' ')} is not known here")


def _times(least: int, most: Any) -> str:
    if str(most) == "MAXREPEAT":
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    return f"{{{least},{int(most)}}}"


def _ranges(name: str, value: Any) -> Ranges:
    if name == "ANY":
        return _complement([(10, 10)])
    if name == "IN":
        found = [pair for kind, one in value for pair in _members(str(kind), one)]
        return _complement(found) if str(value[0][0]) == "NEGATE" else found
    return [(value, value)] if name == "LITERAL" else _complement([(value, value)])


def _members(kind: str, value: Any) -> Ranges:
    if kind == "LITERAL":
        return [(value, value)]
    if kind == "RANGE":
        return [value]
    if kind == "CATEGORY":
        name = str(value).removeprefix("CATEGORY_")
        inside = ASCII_CLASSES[name.removeprefix("NOT_")]
        return _complement(inside) if name.startswith("NOT_") else inside
    return []


def _complement(ranges: Ranges) -> Ranges:
    found, at = [], 0
    for low, high in sorted(ranges):
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    return [*found, (at, TOP)] if at <= TOP else found


def _characters(ranges: Ranges) -> str:
    """One character of these, as JSON writes it."""
    beyond = [(max(low, 0x80), high) for low, high in _merged(ranges) if high >= 0x80]
    plain = [code for code in range(0x20, 0x80) if chr(code) not in '"\\' and _has(ranges, code)]
    if beyond == [(0x80, TOP)]:
        without = [code for code in range(0x80) if code not in plain]
        return f"[^{_in_class(without)}]"
    if sum(high - low + 1 for low, high in beyond) > LONGEST_LIST:
        raise ValueError(f"a class with more than {LONGEST_LIST} characters beyond ASCII, not all")
    parts = [literal(chr(code)) for low, high in beyond for code in range(low, high + 1)]
    parts += [f"[{_in_class(plain)}]"] if plain else []
    if not parts:
        must = [code for code in (*range(0x20), 0x22, 0x5C) if _has(ranges, code)]
        parts = [literal(json.dumps(chr(code))[1:-1]) for code in must]
    if not parts:
        raise ValueError("a class without a character")
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _merged(ranges: Ranges) -> Ranges:
    return _complement(_complement(ranges))


def _has(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def _in_class(codes: list[int]) -> str:
    """The inside of a class; a run's members differ from their places by the same number."""
    places = enumerate(codes)
    runs = [[code for _, code in run] for _, run in groupby(places, lambda one: one[1] - one[0])]
    return "".join(
        f"\\x{run[0]:02x}" + (f"-\\x{run[-1]:02x}" if len(run) > 1 else "") for run in runs
    )
