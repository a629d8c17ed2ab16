"""Processes with their children: the peak of their memory, and an end to all of a browser's; and what
this one holds of memory that it has no use for.

>>> with peak_memory() as peak:
...     build()
>>> peak[0]
812345678
"""

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator

import psutil

LOOK_EVERY_SECONDS = 2.0
NEWCOMERS_SECONDS = 0.5
"""How often a peak's processes are looked for: to go through all of the system's took a twelfth of a
core, twenty times a second."""
KILL_SECONDS = 5

_root: psutil.Process | None = None
"""Whose memory counts, where it is not this process's and its children's alone."""


def count_with(number: int) -> None:
    """From here on `peak_memory` counts process `number` and all below it, where this one is."""
    global _root
    _root = psutil.Process(number)


@contextlib.contextmanager
def peak_memory(
    process: psutil.Process | None = None, *, itself: bool = True, every_seconds: float = 0.05
) -> Iterator[list[int]]:
    """Sample the memory of `process` (if None this one, or what it is counted with) and all below it,
    or only of what is below; the list's one entry is the largest sum seen, in bytes. A page that
    several share counts once (PSS), where the system tells: a browser's processes share gigabytes. As
    that takes the system's time, it is asked whenever the sum of what is resident, where it counts for
    each, is the largest yet."""
    peak, highest, root = [0], [0], process or _root or psutil.Process()
    below, look_at = list[psutil.Process](), 0.0

    def sample() -> None:
        nonlocal below, look_at
        if time.monotonic() > look_at:
            below, look_at = _children(root), time.monotonic() + NEWCOMERS_SECONDS
        family = [root] * itself + below
        if (resident := sum(map(_resident_bytes, family))) > highest[0]:
            highest[0], peak[0] = resident, max(peak[0], sum(map(_held_bytes, family)))

    with _repeated(sample, every_seconds):
        try:
            yield peak
        finally:
            look_at = 0.0


@contextlib.contextmanager
def not_collecting() -> Iterator[None]:
    """Look for no garbage meanwhile: what importing torch and transformers makes stays, and looking it
    through again and again takes a tenth of the time until a bad folder is refused."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def give_back_memory() -> None:
    """Let go of what nothing refers to. glibc keeps what was freed in blocks of up to 32 MB for later;
    between others that live longer they add up: of an 80 MB model's runtime 160 MB, of a 3B model's
    layers over a gigabyte."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _repeated(action: Callable[[], None], every_seconds: float) -> Iterator[None]:
    """`action()` now, again and again in a thread, and once at the end."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_seconds):
            action()

    action()
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        action()


class ProcessTree:
    """The process whose command line carries the word `mark`, and all that it started.

    They are remembered while they live: an orphan is not found through its parent.
    """

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

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Look again and again until the block ends, and once more at its end."""
        return _repeated(self.look, LOOK_EVERY_SECONDS)


def _resident_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _held_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        held = process.memory_full_info()
        return int(getattr(held, "pss", held.rss))
    return _resident_bytes(process)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return list(process.children(recursive=True))
    return []


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
