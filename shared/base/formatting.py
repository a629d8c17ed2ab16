"""Figures as a person reads them."""

import re

from shared.base.errors import UserError

POINTS = "points"
"""The unit of a difference of two shares: hundredths, signed."""


def number(value: bool | int | float | str | None, unit: str) -> str:
    """`0.975, share` → 97.5 %; `0.092, points` → +9.2 points; bytes in GB or MB (1e9, 1e6); other
    floats to three figures, from a thousand on to the unit."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if unit == "share":
            return f"{100 * value:.1f} %"
        if unit == POINTS:
            return f"{100 * value:+.1f} points"
        if unit == "B":
            return f"{value / 1e9:.3f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"
        whole = isinstance(value, int) or abs(value) >= 999.5
        figure = f"{value:,.0f}" if whole else f"{value:.3g}"
        return f"{figure} {unit}".strip()
    return f"{value} {unit}".strip()


def interval(low: float, high: float, unit: str) -> str:
    """`0.48, 0.75, share` → 48–75 %, narrow ones with a decimal; points → -1.0 to +20.0."""
    if unit == POINTS:
        return f"{100 * low:+.1f} to {100 * high:+.1f}"
    if unit == "share":
        digits = 0 if high - low >= 0.1 else 1
        return f"{100 * low:.{digits}f}–{100 * high:.{digits}f} %"
    if unit == "B":
        return f"{number(low, unit)}–{number(high, unit)}"
    return f"{number(low, '')}–{number(high, '')}"


def duration(seconds: float) -> str:
    """`723` → 12 min 3 s."""
    whole = round(seconds)
    hours, minutes, left = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def about(seconds: float) -> str:
    """An estimate, to no more figures than it is worth: 45 s, 12 min, 1 h 40 min."""
    step = 5 if seconds < 90 else 60 if seconds < 5400 else 600
    rounded = max(step, round(seconds / step) * step)
    return duration(rounded).removesuffix(" 0 s") if rounded >= 60 else f"{rounded} s"


def parse_bytes(text: str, where: str) -> int:
    """Bytes of "16GB", "800 MB", "512MiB" or a plain number; UserError naming `where` it was given.

    >>> parse_bytes("1.5 GB", "--gpu-budget")
    1500000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if not found or not float(found[1]):
        raise UserError(f"{where}: a size like 16GB is wanted, not {text!r}")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2] or " "))
