"""Strict parsing: every mistake in a file becomes one sentence with file, key and the nearest key."""

import difflib
import json
import math
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomli
from pydantic import BaseModel, ValidationError

from shared.base import paths
from shared.base.errors import UserError

Model = TypeVar("Model", bound=BaseModel)

LARGEST_TEXT = 64_000_000
"""Bytes. A tokenizer.json with a vocabulary of 250,000 has some 35 MB."""
LARGEST_RELEASE = 16_000_000
DEEPEST_JSON = 100


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
        return loads_strictly(read_text(path))
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


def _need_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > DEEPEST_JSON:
            raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")
        level = [w for v in level for w in (v.values() if isinstance(v, dict) else v)]


def read_toml(path: Path, model: type[Model]) -> Model:
    """Parse TOML into `model`; every mistake is a UserError that names file and key."""
    try:
        data = tomli.loads(read_text(path))
    except tomli.TOMLDecodeError as error:
        raise UserError(f"{paths.shown(path)}: not valid TOML: {error}") from None
    return validate(data, model, paths.shown(path))


def validate(data: Any, model: type[Model], where: str) -> Model:
    """Build `model` from parsed data, or raise the first mistake as a UserError."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error, model)}") from None


def nearest(word: str, valid: list[str]) -> str:
    """`; did you mean …?`, or the list of valid ones where nothing is near."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid are: {', '.join(sorted(valid))}"


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(f"{part}" for part in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = list(_fields_at(model, first["loc"][:-1]))
        return f"{key}: unknown key; {nearest(str(first['loc'][-1]), valid)}"
    if first["type"] == "missing":
        return f"{key}: required, but missing"
    text = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict | list) else f" (found {first['input']!r})"
    return f"{key}: {text}{shown}" if key else text


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
