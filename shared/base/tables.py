"""Tables for people, made by tabulate from measurements; the same rows for terminal and Markdown."""

import re
import shutil
from collections.abc import Sequence

from tabulate import tabulate

from shared.base.formatting import interval, number
from shared.base.manifest import Measurement

Rows = Sequence[Sequence[str]]


def table(headers: Sequence[str], rows: Rows, style: str = "github") -> str:
    """A table in tabulate's style; figures stay text. On a terminal the last column is wrapped.

    In Markdown every cell is held to its cell: no name or reason can end the row or begin HTML.
    """
    widths: list[int | None] | None = None
    if style == "github":
        headers = [cell(text) for text in headers]
        rows = [[cell(text) for text in row] for row in rows]
    else:
        taken = sum(max(len(r[i]) for r in [headers, *rows]) + 3 for i in range(len(headers) - 1))
        widths = [None] * (len(headers) - 1) + [max(24, _terminal_width() - taken - 4)]
    return tabulate(
        rows,
        headers=list(headers),
        tablefmt=style,
        disable_numparse=True,
        maxcolwidths=widths,
        break_long_words=False,  # an address in two pieces cannot be copied
        break_on_hyphens=False,
    )


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
    if measurement.n is not None and (parts or measurement.unit == "share"):
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
