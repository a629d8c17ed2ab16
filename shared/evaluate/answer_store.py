"""Raw answers, kept as they come: build/answers/<key>.jsonl, one line a record, only appended to.

The key is the hash of all an answer depends on but the record: the weights, the runtime, the prompt,
the schema where it binds, and the greatest length. The line names the record by its id and by a hash
of its input. So a killed run goes on where it stopped, and more records, another metric or another
set cost only the answers that are not there yet.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from shared.base import paths
from shared.base.hashing import sha256_json
from shared.domain.records import Record
from shared.evaluate.models.chat import Answer


class Store:
    """The answers of one system in one mode."""

    def __init__(self, about: dict[str, Any]) -> None:
        """`about`: everything the answers depend on but the record."""
        self.path = paths.build() / "answers" / f"{sha256_json(about)[:16]}.jsonl"
        self._found = _read(self.path)

    def get(self, record: Record) -> Answer | None:
        """The answer to this record, if it was ever given."""
        return self._found.get(_name(record))

    def all(self, records: Sequence[Record]) -> list[Answer]:
        """The answers to these records that were ever given, in the records' order."""
        return [answer for record in records if (answer := self.get(record)) is not None]

    def forget(self) -> None:
        """Let all answers go: they are asked for again."""
        with FileLock(f"{self.path}.lock"):
            self.path.unlink(missing_ok=True)
        self._found = {}

    def put(self, record: Record, answer: Answer) -> None:
        """Append it; on the disk when this returns."""
        line = json.dumps({"record": _name(record), **asdict(answer)}, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"), self.path.open("ab+") as file:
            _end_the_line(file)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._found[_name(record)] = answer


def _name(record: Record) -> str:
    return f"{record.id} {sha256_json(record.input)[:16]}"


def _end_the_line(file: Any) -> None:
    """A kill may have left half a line: what comes next must not be glued to it."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _read(path: Path) -> dict[str, Answer]:
    """What stands in whole lines; a torn one is passed over."""
    found = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            data = json.loads(line)
            name = data.pop("record")
            found[name] = Answer(**data)
        except (ValueError, TypeError, KeyError):
            continue
    return found
