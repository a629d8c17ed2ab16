"""Progress on everything over two seconds: bars on a terminal, plain lines elsewhere.

>>> say("[2/9] build")
>>> with bar("quantise", total=272) as step:
...     step("model.layers.0.mlp.up_proj")
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shared.base.errors import printable

console = Console(stderr=True, highlight=False)
PLAIN_EVERY_SECONDS = 10.0

Step = Callable[[str], None]


def say(line: str) -> None:
    """Print one line to stderr (stdout is kept for tables and machine-readable output)."""
    (_listener or _print)(printable(line))


_listener: Callable[[str], None] | None = None
_log: Callable[[str], None] | None = None


def _print(line: str) -> None:
    if _log is not None:
        _log(line)
    console.print(line, markup=False, soft_wrap=True)


@contextmanager
def lines_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Within this, lines go to `listener`, and bars become lines: for the whole process."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def lines_also_to(log: Callable[[str], None]) -> Iterator[None]:
    """Within this, all that is printed goes to `log` as well, bars as lines, --quiet or not."""
    global _log
    before, _log = _log, log
    try:
        yield
    finally:
        _log = before


def has_listener() -> bool:
    """Whether lines go to somebody within this process, and not to the terminal."""
    return _listener is not None


def as_here() -> partial[None]:
    """What another process calls to say its lines where, and as loud as, this one does."""
    return partial(_take_over, console.quiet, _log)


def _take_over(quiet: bool, log: Callable[[str], None] | None) -> None:
    global _log
    console.quiet, _log = quiet, log


def labelled(domain: str, line: str) -> str:
    """The line of one of several domains, which write to one terminal."""
    return f"{domain:<12} │ {line.strip()}"


@contextmanager
def bar(label: str, total: int, unit: str = "") -> Iterator[Step]:
    """Yield `step(detail)`, to be called once for each of `total` units of work."""
    if not sys.stderr.isatty() or _listener is not None:
        with _plain_lines(label, total, unit, say) as step:
            yield step
        return
    with _terminal_bar(label, total) as drawn, _plain_lines(label, total, unit, _log) as logged:

        def both(detail: str) -> None:
            drawn(detail)
            logged(detail)

        yield both


@contextmanager
def _terminal_bar(label: str, total: int) -> Iterator[Step]:
    columns = (
        TextColumn("      {task.description}"),
        BarColumn(bar_width=32),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, detail="")
        yield lambda detail: progress.update(task, advance=1, detail=detail[-40:])


@contextmanager
def _plain_lines(label: str, total: int, unit: str, tell: Step | None) -> Iterator[Step]:
    started = last = time.monotonic()
    done = 0

    def step(detail: str) -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if tell and now - last >= PLAIN_EVERY_SECONDS and done < total:
            last = now
            left = (now - started) / done * (total - done)
            tell(f"      {label}: {done}/{total}{unit and ' ' + unit}, about {left:.0f} s left")

    yield step
