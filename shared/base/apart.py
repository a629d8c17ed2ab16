"""A function in a process of its own, whose memory ends with it.

>>> apart(check_stage, domain, rung, source, package, selection)

What PyTorch and Olive take up when they are imported would stay beside the browser of a later stage:
with what glibc keeps, a gigabyte.
"""

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import connection, get_context, parent_process
from typing import ParamSpec, TypeVar

from shared.base import processes, progress
from shared.base.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

SPAWN = get_context("spawn")
END_SECONDS = 10.0


def apart(function: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The function's value, or what it raises, with its traceback as a note; both are pickled.

    The new process says what this one would, to the same log. Ctrl-C and this one's end are its end,
    too. Where a listener takes what is said, this is a worker, a process of its own already, and the
    function is called here. UserError where the process was ended from outside.
    """
    if progress.has_listener():
        return function(*given, **named)
    ours, theirs = SPAWN.Pipe(duplex=False)
    call = partial(function, *given, **named)
    child = SPAWN.Process(target=_answer, args=(theirs, call, progress.as_here()))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a new process takes over
    try:
        child.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    try:
        value, error = ours.recv()
        child.join(END_SECONDS)
    except EOFError:
        child.join(END_SECONDS)
        raise UserError(_ended(call, child.exitcode)) from None
    finally:
        child.kill()
        child.join()
    if error:
        raise error
    result: T = value
    return result


def _ended(call: partial[T], code: int | None) -> str:
    how = f"ended by signal {-code}" if code and code < 0 else f"gone (exit code {code})"
    name = getattr(call.func, "__name__", "its work")
    return (
        f"{name}: its process was {how}; most often that is want of memory: free some, run it again"
    )


def _answer(theirs: connection.Connection, call: partial[T], take_over: partial[None]) -> None:
    """In the new process: send (value, None) or (None, error)."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    take_over()
    processes.count_with(os.getppid())
    try:
        answer: tuple[T | None, Exception | None] = (call(), None)
    except Exception as error:
        answer = (None, _portable(error))
    theirs.send(answer)


def _portable(error: Exception) -> Exception:
    """The error, where it comes through a pipe as it is, else its words; its traceback is a note."""
    where = "".join(traceback.format_exception(error))
    try:
        found = pickle.loads(pickle.dumps(error))
    except Exception:
        found = RuntimeError(f"{type(error).__name__}: {error}")
    found.add_note(where)
    assert isinstance(found, Exception)
    return found


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
