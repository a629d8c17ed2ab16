"""A function in a process of its own, whose memory ends with it.

>>> apart(check_stage, domain, rung, source, package, selection)

What PyTorch and Olive take up when they are imported would stay beside the browser of a later stage:
with what glibc keeps, a gigabyte.
"""

import contextlib
import copy
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import connection, context, get_context, parent_process
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

import psutil

from shared.base import processes, progress
from shared.base.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

SPAWN = get_context("spawn")
END_SECONDS, ASK_SECONDS = 10.0, 0.5
INTERRUPTED = 130


def apart(function: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The function's value, or what it raises, with its traceback as a note; all is pickled.

    The new process says what this one would, to the same log. Ctrl-C interrupts it, and this one's end
    is its end and that of all that it started. Where a listener takes what is said, this is a worker, a
    process of its own already, and the function is called here. UserError where it was ended from
    outside.
    """
    call = partial(function, *given, **named)
    if progress.has_listener():
        return call()
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(
        target=_answer, args=(theirs,)
    )  # its work follows: a pipe that fills waits
    try:
        _start(child)
        theirs.close()
        ours.send((call, progress.as_here()))
        value, error = ours.recv()
        child.join(END_SECONDS)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        child.join(END_SECONDS)
        raise UserError(_ended(call, child.exitcode)) from None
    except KeyboardInterrupt:
        _interrupt(child)
        raise
    finally:
        _end(child)
    if error:
        raise error
    result: T = value
    return result


def _start(child: context.SpawnProcess) -> None:
    """Without Ctrl-C until it can take it: else it would tell of it with a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(child: context.SpawnProcess) -> None:
    """Until it has ended, at most END_SECONDS; a terminal's Ctrl-C has reached it already."""
    until = time.monotonic() + END_SECONDS
    while child.exitcode is None and child.pid and time.monotonic() < until:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGINT)
        child.join(ASK_SECONDS)


def _end(child: context.SpawnProcess) -> None:
    """If it has not ended yet, with all that it started."""
    if child.exitcode is None and child.pid:
        for process in _below(child.pid):
            with contextlib.suppress(psutil.Error):
                process.kill()
        child.kill()
        child.join()
    if child.exitcode:  # it may have been ended within a bar
        progress.console.show_cursor(True)


def _below(number: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(number).children(recursive=True)
    return []


def _ended(call: partial[T], code: int | None) -> str:
    name = getattr(call.func, "__name__", "its work")
    if code == -signal.SIGKILL:
        why = "most often that is want of memory: free some, run it again"
        return f"{name}: its process was ended by signal 9; {why}"
    how = f"ended by signal {-code}" if code and code < 0 else f"gone (exit code {code})"
    return f"{name}: its process was {how}; what it said of it stands above"


def _answer(theirs: connection.Connection) -> None:
    """In the new process: receive the call, send (value, None) or (None, error)."""
    signal.signal(signal.SIGINT, _interrupted_once)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        call, take_over = theirs.recv()
        take_over()
        processes.count_with(os.getppid())
        _send(theirs, call)
    except (KeyboardInterrupt, EOFError):
        os._exit(INTERRUPTED)


def _send(theirs: connection.Connection, call: partial[Any]) -> None:
    try:
        answer = (call(), None)
        text = pickle.dumps(answer)
    except Exception as error:
        text = pickle.dumps((None, _portable(error)))
    theirs.send_bytes(text)


def _interrupted_once(number: int, frame: FrameType | None) -> NoReturn:
    """As Ctrl-C everywhere; what comes after it, of a terminal or of the parent, is the same one."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _portable(error: Exception) -> Exception:
    """The error, where it comes through a pipe as it is, else its words; its traceback is a note."""
    where = "".join(traceback.format_exception(error))
    try:
        found = copy.copy(error)  # made anew as it will be beyond the pipe
        pickle.dumps(found)
    except Exception:
        found = RuntimeError(f"{type(error).__name__}: {error}")
    found.add_note(where)
    return found


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    for process in _below(os.getpid()):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(1)
