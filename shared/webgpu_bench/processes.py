"""A browser's processes, remembered while they live: an orphan is not found through its parent.

>>> family = Family("--docintel-run=1f3a")  # a word of the first process's command line
>>> with family.watched():
...     start_the_browser()
>>> family.kill()
[]
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psutil

LOOK_EVERY_SECONDS = 2.0
KILL_SECONDS = 5


class Family:
    """The process whose command line carries `mark`, and all that came of it."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._seen: set[psutil.Process] = set()
        self._looking = threading.Lock()

    def look(self) -> None:
        """Remember who is there now; a number that was given to another process is not taken."""
        with self._looking:
            table = {process: _parent(process) for process in psutil.process_iter()}
            mine = {p for p in table if p in self._seen or self.mark in _words(p)}
            while more := {p for p in table if table[p] in {m.pid for m in mine}} - mine:
                mine |= more
            self._seen |= mine

    def living(self) -> list[psutil.Process]:
        """Those ever seen that still run; a zombie waits for its parent and does nothing."""
        return [process for process in list(self._seen) if runs(process)]

    def kill(self) -> list[psutil.Process]:
        """End them all; those that would not go."""
        self.look()
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.kill()
        until = time.monotonic() + KILL_SECONDS
        while self.living() and time.monotonic() < until:
            time.sleep(0.02)
        return self.living()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look again and again until the block ends, and once more at its end."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(LOOK_EVERY_SECONDS):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.look()


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def runs(process: psutil.Process) -> bool:
    """Whether it still does anything; a zombie does not."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
