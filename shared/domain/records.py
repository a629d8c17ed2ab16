"""Records, one JSON object a line: held-out and calibration records, and general instructions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonschema
from pydantic import ConfigDict, Field

from shared.base import paths
from shared.base.errors import UserError
from shared.base.manifest import Strict
from shared.base.parsing import loads_strictly, need_text, read_text, validate

Item = TypeVar("Item")
S = TypeVar("S", bound=Strict)


class Record(Strict):
    """One held-out input with its gold answer. Public sets carry source and licence as well."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    input: str = Field(min_length=1)
    gold: dict[str, Any]
    source: str | None = None
    licence: str | None = None


class Instruction(Strict):
    """A general instruction and its answer, with no domain's prompt."""

    id: str
    input: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Message(Strict):
    """A turn of a chat, as chat templates take it."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class Chat(Strict):
    """A question and its answer, a system prompt before them or none."""

    messages: list[Message]


def read_instructions(path: Path) -> tuple[Instruction, ...]:
    """Read general instructions; none where there is no such file."""
    return _read_lines(path, Instruction) if path.is_file() else ()


def read_chats(path: Path) -> tuple[Chat, ...]:
    """Read chats, one JSON object a line; UserError where one is no question with its answer."""
    chats = _read_lines(path, Chat)
    for number, chat in enumerate(chats, start=1):
        roles = [message.role for message in chat.messages]
        if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
            raise UserError(
                f"{paths.shown(path)}: chat {number}: messages: must be user and assistant, or "
                f"system, user and assistant, not {', '.join(roles) or 'none'}"
            )
    if not chats:
        raise UserError(f"{paths.shown(path)}: holds no chats")
    return chats


def _read_lines(path: Path, kind: type[S]) -> tuple[S, ...]:
    return tuple(
        _read_line(line, kind, f"{paths.shown(path)}:{number}")
        for number, line in enumerate(read_text(path).split("\n"), start=1)
        if line.strip()
    )


def spread(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items in an order whose every beginning is spread about evenly: 0, 4, 2, 6, 1, …"""
    width = len(items).bit_length()
    order = sorted(range(len(items)), key=lambda i: f"{i:0{width}b}"[::-1])
    return tuple(items[i] for i in order)


def read_records(
    path: Path, schema: dict[str, Any], *, partial: bool = False
) -> tuple[Record, ...]:
    """Read held-out records, one JSON object a line; each gold must satisfy the schema.

    `partial`: gold may leave out required fields, as other people's sets do; they are not judged.
    """
    if partial:
        schema = {key: value for key, value in schema.items() if key != "required"}
    validator = jsonschema.Draft202012Validator(schema)
    records: list[Record] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            records.append(_read_record(line, validator, f"{paths.shown(path)}:{number}"))
    ids = [record.id for record in records]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"{paths.shown(path)}: the id {twice!r} stands twice")
    if not records:
        raise UserError(f"{paths.shown(path)}: holds no records")
    return tuple(records)


def _read_record(line: str, validator: jsonschema.Draft202012Validator, where: str) -> Record:
    record = _read_line(line, Record, where)
    try:
        validator.validate(record.gold)
    except jsonschema.ValidationError as error:
        key = ".".join(["gold", *map(str, error.path)])
        raise UserError(f"{where}: {key}: {error.message}") from None
    return record


def _read_line(line: str, kind: type[S], where: str) -> S:
    try:
        value = need_text(loads_strictly(line), line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None
    return validate(value, kind, where)
