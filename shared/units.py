"""Figures as a person reads them."""

from __future__ import annotations

import re

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)", re.IGNORECASE)
FACTORS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def number(value: bool | int | float | str | None, unit: str) -> str:
    """`0.975, share` → 97.5 %; bytes in GB or MB (1e9, 1e6); other floats to three figures."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if unit == "share":
            return f"{100 * value:.1f} %"
        if unit == "B":
            return f"{value / 1e9:.3f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"
        figure = f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
        return f"{figure} {unit}".strip()
    return f"{value} {unit}".strip()


def parse_bytes(text: str) -> int:
    """`8GB` → 8,000,000,000; `512MiB` → 536,870,912. ValueError for anything else.

    >>> parse_bytes("1.5 GB")
    1500000000
    """
    found = SIZE.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise ValueError(f"a size like 8GB or 512MiB is wanted, not {text!r}")
    return round(float(found[1]) * FACTORS[found[2].lower()])
