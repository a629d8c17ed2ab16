"""A defect of ours in one domain of many: its traceback goes to a file, one sentence to the table."""

from __future__ import annotations

import traceback

from shared.base import paths
from shared.base.text import first_line


def kept(domain: str, step: str, error: Exception) -> str:
    """The sentence; the traceback is in build/failures/<domain>.txt, since beside other domains'
    lines it is no help."""
    file = paths.build() / "failures" / f"{domain}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    where = paths.shown(file)
    return f"{domain}: {step}: {type(error).__name__}: {first_line(error)} (traceback: {where})"
