"""Waiting for an event, never for a time: a busy machine makes a test slow, not wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

if TYPE_CHECKING:
    from shared.pipeline.one_domain import Result
    from shared.pipeline.schedule.units import Unit

T = TypeVar("T")
CEILING_SECONDS = 900.0
"""Only so that a test that can no longer pass ends at all."""


def wait_until(
    happened: Callable[[], T],
    process: subprocess.Popen[Any] | None = None,
    *,
    every: float = 0.02,
    ceiling: float = CEILING_SECONDS,
) -> T:
    """What `happened` returns once that is true; a process that ends before it is a failure."""
    deadline = time.monotonic() + ceiling
    while not (found := happened()):
        assert process is None or process.poll() is None, f"it ended first: {process.returncode}"
        assert time.monotonic() < deadline, f"nothing happened within {ceiling} s"
        time.sleep(every)
    return found


def held_at(process: subprocess.Popen[Any], event: Callable[[], T]) -> list[psutil.Process]:
    """The process and all beneath it, stopped while `event` is true: a signal then finds them there."""
    while True:
        wait_until(event, process)
        first = psutil.Process(process.pid)
        first.suspend()
        family = [first, *first.children(recursive=True)]
        each(family, psutil.Process.suspend)
        if event():
            return family
        each(family, psutil.Process.resume)  # it went by before they stopped


def each(family: list[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """Do it to those that have not ended meanwhile."""
    for member in family:
        with suppress(psutil.NoSuchProcess):
            do(member)


def die(root: str, unit: Unit) -> tuple[Result, str, int]:
    """What a worker runs in place of a unit. It stands here, in a module that imports little: a worker
    imports what it is given by name."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
