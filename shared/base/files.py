"""Nothing half-written is seen: a folder is swapped in whole, a file put in its place at once."""

import ctypes
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.hashing import keep_hashes

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Linux's fcntl.h and linux/fs.h (man 2 renameat2)."""


def swap_in(work: Path, final: Path) -> None:
    """Put `work` where `final` is, then delete the older `final`.

    Linux exchanges the two in one step, so that one of them is always there. Elsewhere the older is
    moved out of the way first; a death between the two renames is made good by `recover`.
    """
    recover(final)
    old = _older(final)
    if final.is_symlink() and not final.exists():  # to a disk that is away
        final.unlink()
    if final.exists() and _exchange(work, final):
        work.rename(old)  # under the name `work` a run would resume from what is half deleted
        _clear(old)
        return
    if final.exists():
        final.rename(old)
    work.rename(final)
    _clear(old)


def recover(final: Path) -> None:
    """Put back what a run that died between two renames had moved out of the way, or clear it."""
    old = _older(final)
    if old.exists() and not final.exists():
        old.rename(final)
    _clear(old)


def _clear(folder: Path) -> None:
    """Delete it; of a link to a folder the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _older(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (os.fsencode(one), os.fsencode(other))
    return call is not None and (call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def free_disk() -> int:
    """Bytes that are free where things are made: models/ and build/ may be links to other disks."""
    places = [paths.root(), *(p for p in (paths.root() / "models", paths.build()) if p.is_dir())]
    return min(shutil.disk_usage(place).free for place in places)


def write_text(path: Path, text: str) -> Path:
    """Write it under a name of this process, then put it in its place at once; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def write_json(path: Path, value: Any) -> Path:
    """The same for a JSON value, for people to read."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_bytes(path: Path, data: bytes) -> str:
    """The same for bytes, which are on the disk itself before they have their name; their SHA-256."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return hashlib.sha256(data).hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link, or copy where the file system or a border between two of them forbids it."""
    with keep_hashes([source]) as moved:
        try:
            os.link(source, target)
            moved[source] = target
        except OSError:
            shutil.copyfile(source, target)
