"""A log of each run that makes something: what it said on the way, and the traceback of a defect.

>>> with run_log("release") as log:
...     say("[1/10] legal · smollm3 · source")
>>> log.named()
' (log: build/logs/2026-11-29-091500-release-4242.log)'

The file is made with the first line, so that a mistake found before any work leaves nothing. Tokens are
taken out; the newest KEPT stay.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from shared.base import paths, progress
from shared.base.errors import printable

KEPT = 30


@dataclass(frozen=True)
class RunLog:
    """Where a run's lines go; no file before the first, nor where none can be written."""

    file: Path

    def add(self, text: str) -> None:
        """Append lines with the time; a full disk or a read-only folder is told by the work itself."""
        with suppress(OSError):
            if not self.file.exists():
                self._begin()
            self._append(text)

    def add_traceback(self, error: BaseException) -> None:
        self.add("".join(traceback.format_exception(error)))

    def named(self) -> str:
        """For the end of an error's sentence: where the log is, if there is one."""
        return f" (log: {paths.shown(self.file)})" if self.file.exists() else ""

    def _begin(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for old in sorted(self.file.parent.glob("*.log"))[: 1 - KEPT]:
            old.unlink(missing_ok=True)
        self._append(" ".join(sys.argv))

    def _append(self, text: str) -> None:
        from shared.hub.token import scrub  # the Hub's library reads variables that may be odd

        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%H:%M:%S} {printable(scrub(text)).rstrip()}\n")


@contextmanager
def run_log(command: str) -> Iterator[RunLog]:
    """Within this, what is said goes to build/logs/<date>-<command>-<process>.log as well."""
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{command}-{os.getpid()}.log"
    log = RunLog(paths.build() / "logs" / name)
    with progress.lines_also_to(log.add):
        yield log
