"""Strict parsing: every mistake in a file becomes one sentence with file, key and the nearest key."""

import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import tomli
from pydantic import BaseModel, ValidationError

from shared.base import paths
from shared.base.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
Key = tuple[int | str, ...]
"""Where a value stands: ("gate", 3, "at_most")."""
Where = str | Callable[[Key], str]
"""A file's name, or what gives the place of a key in it."""

MISSING = "required, but missing"
LARGEST_TEXT = 64_000_000
"""Bytes. A tokenizer.json with a vocabulary of 250,000 has some 35 MB."""
LARGEST_RELEASE = 16_000_000
DEEPEST_JSON = 100
HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON spells half of a surrogate pair, and each half of a whole one."""


def read_text(path: Path) -> str:
    """The file's text; UserError where it is missing or not UTF-8."""
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise UserError(f"{paths.shown(path)}: {path.stat().st_size:,} bytes; too large a text")
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{paths.shown(path)}: the file is missing") from None
    except IsADirectoryError:
        raise UserError(f"{paths.shown(path)}: a folder; a file is wanted") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{paths.shown(path)}: not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> Any:
    """Parse JSON, refusing what JSON does not allow: duplicate keys, NaN, Infinity."""
    try:
        text = read_text(path)
        return need_text(loads_strictly(text), text)
    except ValueError as error:
        raise UserError(f"{paths.shown(path)}: not valid JSON: {error}") from None


def loads_strictly(text: str) -> Any:
    """json.loads that raises ValueError on NaN, Infinity and duplicate keys (RFC 8259, section 4).

    And where values lie deeper than any file of ours has them: a bomb for whatever reads them next.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_integer
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from None
    _need_shallow(value)
    return value


def need_text(value: Any, text: str) -> Any:
    """The value of a JSON text; ValueError where a string in it has half of a surrogate pair, as a cut
    in the middle of an emoji leaves it: it is JSON, but can be written nowhere."""
    try:
        if HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!r} is half a character") from None
    return value


def _need_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")
        level = [w for v in level for w in (v.values() if isinstance(v, dict) else v)]


@dataclass(frozen=True)
class Toml:
    """A TOML file, parsed, which knows the line of each key; tomli does not."""

    path: Path
    text: str
    data: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """UserError where the file is missing or no TOML."""
        text = read_text(path)
        try:
            return cls(path, text, tomli.loads(text))
        except tomli.TOMLDecodeError as error:
            raise UserError(f"{paths.shown(path)}: not valid TOML: {error}") from None

    @cached_property
    def lines(self) -> dict[Key, int]:
        """Key → the line where it begins: the first whose end makes a TOML file that has it."""
        found: dict[Key, int] = {}
        rows, begin = self.text.split("\n"), 1
        for end in range(1, len(rows) + 1):
            try:
                data = tomli.loads("\n".join(rows[:end]))
            except tomli.TOMLDecodeError:  # within a value of several lines
                continue
            for key in _keys(data):
                found.setdefault(key, begin)
            begin = end + 1
        return found

    def depth(self, key: Key) -> int:
        """How many parts of the key lead somewhere in this file."""
        return next(n for n in range(len(key), -1, -1) if n == 0 or key[:n] in self.lines)

    def place(self, key: Key) -> str:
        """`file:line: key`; where the key is missing, the line of its table."""
        line = self.lines.get(key[: self.depth(key)])
        return _joined(paths.shown(self.path) + (f":{line}" if line else ""), key)


def read_toml(path: Path, model: type[Model]) -> Model:
    """Parse TOML into `model`; every mistake is a UserError that names file, line and key."""
    toml = Toml.read(path)
    return validate(toml.data, model, toml.place)


def validate(data: Any, model: type[Model], where: Where) -> Model:
    """Build `model` from parsed data, or raise the first mistake as a UserError."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(sentence(error, model, where)) from None


def nearest(word: str, valid: list[str]) -> str:
    """`; did you mean …?`, or the list of valid ones where nothing is near."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid are: {', '.join(sorted(valid))}"


def sentence(error: ValidationError, model: type[BaseModel], where: Where) -> str:
    """pydantic's first error as one sentence: place, key, what is wrong, the nearest valid key.

    An unknown key comes first, then a name that is none: they are why another one is missing.
    """
    order = {"extra_forbidden": 0, "string_type": 1}
    first = min(error.errors(include_url=False), key=lambda one: order.get(one["type"], 2))
    key = first["loc"]
    place = where(key) if callable(where) else _joined(where, key)
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key; {nearest(str(key[-1]), _fields_at(model, key[:-1]))}"
    if first["type"] == "missing":
        return f"{place}: {MISSING}"
    if first["type"] == "model_type":
        return f"{place}: Input should be an object"
    found = "" if isinstance(first["input"], dict | list) else f" (found {first['input']!r:.200})"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{found}"


def _joined(where: str, key: Key) -> str:
    return f"{where}: {'.'.join(map(str, key))}" if key else where


def _keys(data: Any, above: Key = ()) -> Iterator[Key]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for name, value in items:
        yield (*above, name)
        if isinstance(value, dict | list):
            yield from _keys(value, (*above, name))


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The field names of the model that `loc` leads to, through lists and optional values."""
    for part in loc:
        if isinstance(part, int) or part not in model.model_fields:
            continue  # a place in a list, or a key of a table that has any keys
        annotation: Any = model.model_fields[part].annotation
        model = next((m for m in _models_in(annotation)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


class LongInteger(int):
    """An integer of more digits than Python prints (4,300); JSON has no such limit."""

    def __repr__(self) -> str:
        return f"an integer of about {math.ceil(self.bit_length() / math.log2(10)):,} digits"

    __str__ = __repr__


def _integer(digits: str) -> int:
    short = len(digits) <= sys.int_info.default_max_str_digits
    return int(digits) if short else LongInteger(Decimal(digits))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key {key!r} stands twice")
        seen[key] = value
    return seen


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
