"""One check's outcome, and how the outcomes are printed: ✓ holds, ✗ does not, – was not checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import UserError, printable

MARKS = {True: "✓", False: "✗", None: "–"}


@dataclass(frozen=True)
class Line:
    """`ok` is None where nothing was checked, which is neither.

    Its words may quote the release: printed, they stay one line and steer no terminal, so that no
    release can print a ✓ of its own.
    """

    name: str
    ok: bool | None
    words: str

    def __str__(self) -> str:
        words = " ".join(printable(self.words).split())
        return f"{MARKS[self.ok]} {printable(self.name):<12} {words}"


def line(name: str, check: Callable[[], str]) -> Line:
    """The check's own words where it holds, or the sentence it raised."""
    try:
        return Line(name, True, check())
    except UserError as error:
        return Line(name, False, " ".join(str(error).split()))


def need(holds: bool, sentence: str) -> None:
    """UserError with the sentence unless it holds."""
    if not holds:
        raise UserError(sentence)
