"""A folder made beside its place and swapped in whole: readers see the old one or the new one."""

from __future__ import annotations

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
