"""One process at a time; a lock dies with its process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from shared.base.progress import say


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Wait until no other process is within this for the same `path`; `what` it makes is told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"      waiting for another process that is making {what}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
