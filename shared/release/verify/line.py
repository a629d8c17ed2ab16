"""The outcome of one check, and how it is printed: ✓ holds, ✗ does not, – was not checked."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.base.errors import UserError, printable

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


class NotChecked(Exception):
    """Raised by a check that could not be made; its text says why."""


def line(name: str, check: Callable[[], str]) -> Line:
    """The check's own words where it holds, or the sentence it raised.

    Whatever else it raises over a third party's file is a ✗ as well: no release may end the checks.
    """
    try:
        return Line(name, True, check())
    except NotChecked as error:
        return Line(name, None, str(error))
    except UserError as error:
        return Line(name, False, " ".join(str(error).split()))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        why = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Line(name, False, f"cannot be read as a release's: {why}")


def need(holds: bool, sentence: str) -> None:
    """UserError with the sentence unless it holds."""
    if not holds:
        raise UserError(sentence)
