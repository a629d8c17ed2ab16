"""Tables for people, made by tabulate from measurements; the same rows for terminal and Markdown."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tabulate import tabulate

from shared.base.errors import printable
from shared.base.formatting import POINTS, interval, number
from shared.base.manifest import Measurement

Rows = Sequence[Sequence[str]]


PADDING = "__"
"""tabulate makes every column two wider than its head."""
_recorded: dict[str, Any] | None = None


@contextmanager
def recorded() -> Iterator[dict[str, Any]]:
    """Within this, tables for the terminal are not drawn: their rows come under "tables"."""
    global _recorded
    _recorded = {"tables": []}
    try:
        yield _recorded
    finally:
        _recorded = None


def record(name: str, data: Any) -> None:
    """What --json shows beside the tables."""
    if _recorded is not None:
        _recorded[name] = data


def table(headers: Sequence[str], rows: Rows, style: str = "github") -> str:
    """A table in tabulate's style; figures stay text. On a terminal it fits the terminal's width, or is
    a list of its rows: an address in two pieces cannot be copied.

    In Markdown every cell is held to its cell: no name or reason can end the row or begin HTML.
    """
    widths: list[int] | None = None
    if style == "github":
        headers = [cell(text) for text in headers]
        rows = [[cell(text) for text in row] for row in rows]
    elif _recorded is not None:
        _recorded["tables"].append([dict(zip(headers, row, strict=True)) for row in rows])
        return ""
    else:
        rows = [[printable(text) for text in row] for row in rows]
        fitted = _fitted(headers, rows)
        if fitted is None:
            lists = [list(zip(headers, row, strict=True)) for row in rows]
            return "\n\n".join(tabulate(i, tablefmt="plain", disable_numparse=True) for i in lists)
        headers, rows, widths = fitted
    return tabulate(
        rows,
        headers=list(headers),
        tablefmt=style,
        disable_numparse=True,
        maxcolwidths=widths,
        maxheadercolwidths=widths and [max(1, width - len(PADDING)) for width in widths],
        break_on_hyphens=False,
    )


def _fitted(headers: Sequence[str], rows: Rows) -> tuple[Sequence[str], Rows, list[int]] | None:
    """Headers, rows and widths for this terminal: cells wrap between words; where words do not fit
    side by side the table is turned, a row a column. None where they do not fit then either."""
    for whole in ([headers, *rows], list(zip(headers, *rows, strict=True))):
        columns = list(zip([head + PADDING for head in whole[0]], *whole[1:], strict=True))
        room = _terminal_width() - 3 * len(columns) - 1
        least = [_longest_word(column) for column in columns]
        if sum(least) > room:
            continue
        widths = [max(1, *map(len, column)) for column in columns]
        while sum(widths) > room:
            widths[max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))] -= 1
        return whole[0], whole[1:], widths
    return None


def _longest_word(column: Sequence[str]) -> int:
    return max(len(word) for text in column for word in [*text.split(), ""])


CODE = re.compile(r"(?<!`)(`+)(?!`)([^`\\|]+)(?<!`)\1(?!`)")
"""A code span (CommonMark, section 6.1): runs of backticks of one length. One with a backslash or a
column border in it is taken for text, since tables and code spans read those in different ways."""


def cell(text: str) -> str:
    """One line in which HTML, links and column borders are only characters; `code` stays code."""
    text = " ".join(str(text).split()).replace("<", "&lt;").replace(">", "&gt;")
    done, parts = 0, []
    for code in CODE.finditer(text):
        parts += [_plain(text[done : code.start()]), code[0]]
        done = code.end()
    return "".join([*parts, _plain(text[done:])])


def _plain(text: str) -> str:
    """Every backslash, backtick, bracket and border is one, and nothing else."""
    return re.sub(r"([\\`\[\]|])", r"\\\1", text)


def words(text: str) -> str:
    """`text` for a Markdown paragraph: one line, every mark of Markdown and HTML only a character."""
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(str(text).split()))
    return text.replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str, language: str = "text") -> str:
    """`text` as a code block that nothing in it can end (CommonMark, section 4.5)."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _terminal_width() -> int:
    return shutil.get_terminal_size((140, 24)).columns


def shown(measurement: Measurement | None) -> str:
    """A measurement as a person reads it: value, unit, 95 % interval or standard error, n, and
    whether an adapter was software.

    >>> shown(Measurement(value=0.625, unit="share", n=50, low=0.48, high=0.75))
    '62.5 % (48–75 %, n = 50)'
    """
    if measurement is None:
        return "not measured"
    if measurement.value is None:
        return f"not measured: {measurement.reason}"
    text = number(measurement.value, measurement.unit)
    has_interval = measurement.low is not None and measurement.high is not None
    certainty = _certainty(measurement)
    text += f" ({certainty})" if certainty else ""
    if measurement.standard_error is not None and not has_interval:
        text += f" ± {measurement.standard_error:.2g}"
    if measurement.software_adapter and measurement.unit in ("s", "tokens/s"):
        text += " (software adapter)"
    return text


def _certainty(measurement: Measurement) -> str:
    """The interval and n, where they are there and say something."""
    parts = []
    if measurement.low is not None and measurement.high is not None:
        parts.append(interval(measurement.low, measurement.high, measurement.unit))
    if measurement.n is not None and (parts or measurement.unit in ("share", POINTS)):
        parts.append(f"n = {measurement.n}")
    return ", ".join(parts)


def measurements_table(
    measurements: dict[str, Measurement], names: dict[str, str], style: str = "github"
) -> str:
    """`names`: measurement → words; rows in that order, how and where it was measured beside it."""
    rows = []
    for name, words in names.items():
        m = measurements.get(name)
        rows.append((words, shown(m), m.how if m else ""))
    return table(("measurement", "value", "how"), rows, style)
