"""Bounded numbers as EBNF, over their digits.

>>> integer(1, 120)
'[1-9] | [1-9] [0-9] | "1" [0-1] [0-9] | "120"'
"""

from decimal import Decimal
from itertools import groupby

DIGIT = "[0-9]"
Bound = tuple[str, bool] | None
"""Digits after the point without trailing zeros, and whether the bound itself is left out."""


def integer(low: int | None, high: int | None) -> str:
    """The integers from `low` to `high`, both within; None is no bound. ValueError: there are none."""
    parts = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        parts += [f'"-" ({_alternatives(_natural(least, None if low is None else -low))})']
    if high is None or high >= 0:
        parts += _natural(max(low or 0, 0), high)
    return _alternatives(parts)


def number(low: Decimal | None, high: Decimal | None, open_low: bool, open_high: bool) -> str:
    """The numbers between two bounds, written without an exponent; `open_…`: without the bound."""
    parts = []
    if low is None or low < 0:
        least = Decimal(0) if high is None or high >= 0 else -high
        below = high is not None and high <= 0
        negative = _positive(least, None if low is None else -low, below and open_high, open_low)
        parts += [f'"-" ({_alternatives(negative)})'] if negative else []
    if high is None or high >= 0:
        above = low is not None and low >= 0
        floor = low if low is not None and above else Decimal(0)
        parts += _positive(floor, high, above and open_low, open_high)
    return _alternatives(parts)


def _alternatives(parts: list[str]) -> str:
    if not parts:
        raise ValueError("no number is within its bounds")
    return " | ".join(parts)


def _natural(low: int, high: int | None) -> list[str]:
    """Alternatives for the integers from `low` ≥ 0 to `high`."""
    first = str(low)
    if high is None:
        longer = f"[1-9] {DIGIT}{{{len(first)},}}"
        return [*_same_length(first, "9" * len(first)), longer]
    found = []
    for length in range(len(first), len(str(high)) + 1):
        least, most = max(low, 10 ** (length - 1)), min(high, 10**length - 1)
        if length == 1:
            least = low
        found += _same_length(str(least), str(most)) if least <= most else []
    return found


def _same_length(low: str, high: str) -> list[str]:
    if low == high:
        return [f'"{low}"'] if low else [""]
    if low[0] == high[0]:
        return [f'"{low[0]}" {rest}' for rest in _same_length(low[1:], high[1:])]
    tail, found = len(low) - 1, []
    least, most = int(low[0]), int(high[0])
    if low[1:] != "0" * tail:
        found += [f'"{low[0]}" {rest}' for rest in _same_length(low[1:], "9" * tail)]
        least += 1
    last = []
    if high[1:] != "9" * tail:
        last = [f'"{high[0]}" {rest}' for rest in _same_length("0" * tail, high[1:])]
        most -= 1
    if least <= most:
        found += [" ".join([f"[{least}-{most}]", *[DIGIT] * tail])]
    return found + last


def _positive(low: Decimal, high: Decimal | None, open_low: bool, open_high: bool) -> list[str]:
    """Alternatives for the numbers between `low` ≥ 0 and `high`."""
    if high is not None and high < low:
        return []
    whole, above = int(low), (_fraction(low), open_low)
    if high is None:
        return [*_whole(whole, above, None), *_any_fraction(_natural(whole + 1, None))]
    last, below = int(high), (_fraction(high), open_high)
    if whole == last:
        return _whole(whole, above, below)
    between = _natural(whole + 1, last - 1) if whole + 1 < last else []
    return [*_whole(whole, above, None), *_any_fraction(between), *_whole(last, None, below)]


def _fraction(value: Decimal) -> str:
    return f"{value:f}".partition(".")[2].rstrip("0")


def _any_fraction(wholes: list[str]) -> list[str]:
    return [f'({" | ".join(wholes)}) ("." {DIGIT}+)?'] if wholes else []


def _whole(whole: int, low: Bound, high: Bound) -> list[str]:
    """Alternatives for the numbers with this integer part."""
    rest = _digits(low, high)
    found = [f'"{whole}"'] if _may_end(low, high) else []
    return found + ([f'"{whole}." ({rest})'] if rest else [])


def _may_end(low: Bound, high: Bound) -> bool:
    """Whether what was written so far, with nothing but zeros after it, is within both bounds."""
    return (low is None or low == ("", False)) and (high is None or high != ("", True))


def _digits(low: Bound, high: Bound) -> str:
    """One or more digits that keep within both bounds; "" where there are none."""
    low = None if low == ("", False) else low
    if low is None and high is None:
        return f"{DIGIT}+"
    if low is None and high and not high[0]:
        return "" if high[1] else '"0"+'
    if low == ("", True) and high is None:
        return f'"0"* [1-9] {DIGIT}*'
    if low and high and not low[0] and not high[0]:
        return ""
    first, last = int((low[0] if low else "")[:1] or 0), int((high[0] if high else "9")[:1] or 0)

    def after(digit: int) -> tuple[Bound, Bound]:
        return (
            (low[0][1:], low[1]) if low and digit == first else None,
            (high[0][1:], high[1]) if high and digit == last else None,
        )

    parts = []
    for (above, below), digits in groupby(range(first, last + 1), after):
        same = list(digits)
        rest, ends = _digits(above, below), _may_end(above, below)
        if rest or ends:
            follow = f" ({rest}){'?' if ends else ''}" if rest else ""
            parts.append(f"[{same[0]}-{same[-1]}]{follow}")
    return " | ".join(parts)
