"""SHA-256 of files, remembered: gigabytes are not read again while size, mtime and inode stand still.

>>> sha256_file(Path("models/legal/merged/model.safetensors"))
>>> sha256_json({"bits": 4})
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from shared import paths
from shared.progress import say
from shared.units import number

REMEMBER_FROM_BYTES = 1 << 20
"""Smaller files are hashed each time: it takes about a millisecond."""


TELL_FROM_BYTES = 1 << 30
"""Hashing these takes seconds, and is said."""


def sha256_json(value: Any) -> str:
    """Hash of a JSON value with sorted keys: equal values, equal hashes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes; a large file's comes from build/hashes.sqlite if it is unchanged."""
    status = path.stat()
    if status.st_size < REMEMBER_FROM_BYTES:
        return _digest(path)
    mark = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
    with closing(_memory()) as memory, memory:
        known = memory.execute(
            "select sha256 from file where path = ? and mark = ?", (str(path.resolve()), mark)
        ).fetchone()
        if known:
            return str(known[0])
        digest = _digest(path)
        memory.execute(
            "insert or replace into file values (?, ?, ?)", (str(path.resolve()), mark, digest)
        )
    return digest


def sha256_now(path: Path) -> str:
    """Hash of a file's bytes as they are on the disk now, for who trusts no time stamp."""
    return _digest(path)


def sha256_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hash of each named file in `folder`, by name."""
    return {name: sha256_file(folder / name) for name in sorted(names)}


def files_below(folder: Path) -> list[str]:
    """Relative names of all regular files below `folder`, sorted, in POSIX spelling."""
    found = [Path(base) / name for base, _, names in os.walk(folder) for name in names]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _digest(path: Path) -> str:
    size = path.stat().st_size
    if size >= TELL_FROM_BYTES:
        say(f"      hashing {path.name} ({number(size, 'B')})")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memory() -> sqlite3.Connection:
    paths.build().mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(paths.build() / "hashes.sqlite", timeout=60)
    connection.execute(
        "create table if not exists file (path text primary key, mark text, sha256 text)"
    )
    return connection
