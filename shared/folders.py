"""Nothing half-written is seen: a folder is swapped in whole, a text file put in its place at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def swap_in(work: Path, final: Path) -> None:
    """Rename `work` to `final`; an older `final` is moved out of the way first, then deleted."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    work.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write it under a name of this process, then put it in its place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
