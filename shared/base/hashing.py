"""SHA-256 of files, remembered: gigabytes are not read again while nothing about a file has changed.

>>> sha256_file(Path("models/legal/merged/model.safetensors"))
>>> sha256_json({"bits": 4})

What is remembered stands in build/hashes.sqlite under the file's *mark*: inode, size, mtime and
ctime. The name is no part of it, so that a rename keeps the memory; ctime is, since no program can
set it back: an archive that restores mtime over another file of the same size is seen. Two rules
keep the memory true: nothing is remembered that changed while it was read, or so shortly before that
the clock's tick could hide a second change; and `keep_hashes` alone takes a hash across a link.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.formatting import number
from shared.base.progress import say

REMEMBER_FROM_BYTES = 1 << 20
"""Smaller files are hashed each time: it takes about a millisecond."""


TELL_FROM_BYTES = 1 << 30
"""Hashing these takes seconds, and is said."""

MEMORY = "hashes.sqlite"

TICK_NS = 20_000_000
"""File times move in steps of the kernel's tick, 10 ms at the most; twice that is safe."""

_hashing_refused: ContextVar[bool] = ContextVar("_hashing_refused", default=False)


_written: dict[tuple[int, ...], str] = {}


class NotDone(Exception):
    """Asked only for what is there already, and something is not: no fault, so no UserError."""


@contextmanager
def only_what_is_done() -> Iterator[None]:
    """Within this, stages give back what is finished or raise NotDone; no large file is read."""
    token = _hashing_refused.set(True)
    try:
        yield
    finally:
        _hashing_refused.reset(token)


def refuse_work(what: str) -> None:
    """NotDone(what) inside `only_what_is_done`; nothing elsewhere."""
    if _hashing_refused.get():
        raise NotDone(what)


def work_is_refused() -> bool:
    """Whether this runs inside `only_what_is_done`."""
    return _hashing_refused.get()


def sha256_json(value: Any) -> str:
    """Hash of a JSON value with sorted keys: equal values, equal hashes."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes; a large file's comes from the memory if the file is unchanged."""
    status = path.stat()
    if status.st_size < REMEMBER_FROM_BYTES:
        return _digest(path)
    if known := _known(status):
        return known
    refuse_work(f"hash of {paths.shown(path)}")
    started = time.time_ns()
    digest = _digest(path)
    settled = max(status.st_mtime_ns, status.st_ctime_ns) < started - TICK_NS
    if settled and _mark(path.stat()) == _mark(status):
        _remember({_mark(status): digest})
    return digest


def sha256_now(path: Path) -> str:
    """Hash of a file's bytes as they are on the disk now, for who trusts no time stamp."""
    return _digest(path)


def sha256_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hash of each named file in `folder`, by name."""
    return {name: sha256_file(folder / name) for name in sorted(names)}


def record_hash(path: Path, digest: str) -> None:
    """Take over the hash that a writer computed while it wrote: this process reads no byte again.

    Holds across renames and links for as long as the process lives, and only until the file's
    mtime moves; `save_hashes` makes it last. Only for files nobody else writes to.
    """
    _written[_written_mark(path.stat())] = digest


def save_hashes(digests: dict[Path, str]) -> None:
    """Make hashes that are already known last; only for files nobody else writes to."""
    statuses = {path: path.stat() for path in digests}
    large = {p: s for p, s in statuses.items() if s.st_size >= REMEMBER_FROM_BYTES}
    if large:
        _remember({_mark(status): digests[path] for path, status in large.items()})


@contextmanager
def keep_hashes(files: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """Keep what is known of `files` across a link or rename, which both change a file's ctime.

    Yields an empty dict: put in old path → new path for each file that was linked or renamed.
    """
    known = {path: _known(path.stat()) for path in files if path.is_file()}
    moved: dict[Path, Path] = {}
    yield moved
    save_hashes({new: digest for old, new in moved.items() if (digest := known.get(old))})


def forget_hashes() -> None:
    """Empty the memory: every file is hashed again when it is next asked for (`--rehash`)."""
    for name in (MEMORY, f"{MEMORY}-journal"):
        (paths.build() / name).unlink(missing_ok=True)


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


def _mark(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _known(status: os.stat_result) -> str | None:
    return _written.get(_written_mark(status)) or _recall(_mark(status))


def _written_mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _recall(mark: str) -> str | None:
    """A memory that cannot be opened (a network file system without locks) costs time, not truth."""
    if not (paths.build() / MEMORY).exists():  # nothing is written where nothing is known
        return None
    try:
        with closing(_memory()) as memory:
            row = memory.execute("select sha256 from hash where mark = ?", (mark,)).fetchone()
    except (sqlite3.Error, OSError):
        return None
    return str(row[0]) if row else None


def _remember(digests: dict[str, str]) -> None:
    try:
        with closing(_memory()) as memory, memory:
            memory.executemany("insert or replace into hash values (?, ?)", digests.items())
    except (sqlite3.Error, OSError):
        return


def _memory() -> sqlite3.Connection:
    paths.build().mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(paths.build() / MEMORY, timeout=60)
    connection.execute("create table if not exists hash (mark text primary key, sha256 text)")
    return connection
