"""Tables for people, made by tabulate from measurements; the same rows for terminal and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from shared.chain import Attempt
from shared.gates import GateResult
from shared.manifest import Measurement

Rows = Sequence[Sequence[str]]


def table(headers: Sequence[str], rows: Rows, style: str = "github") -> str:
    """A table in tabulate's style; figures stay text, as they were formatted."""
    return tabulate(rows, headers=list(headers), tablefmt=style, disable_numparse=True)


def shown(measurement: Measurement | None) -> str:
    """A measurement as a person reads it: value, unit, n, and whether an adapter was software."""
    if measurement is None:
        return "not measured"
    if measurement.value is None:
        return f"not measured: {measurement.reason}"
    text = number(measurement.value, measurement.unit)
    if measurement.n is not None and measurement.unit == "share":
        text += f" (n = {measurement.n})"
    if measurement.software_adapter and measurement.unit in ("s", "tokens/s"):
        text += " (software adapter)"
    return text


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


def attempts_table(attempts: Sequence[Attempt], style: str = "github") -> str:
    """Every rung tried: what became of it, how far it got, and why."""
    rows = [(a.rung, a.base, a.outcome, a.stage, a.reason) for a in attempts]
    return table(("rung", "base model", "outcome", "stage reached", "reason"), rows, style)


def gates_table(gates: Sequence[GateResult], style: str = "github") -> str:
    """Every gate: its bound, the verdict, what it stops and the figure or reason behind it."""
    rows = [(g.name, g.bound, g.outcome, g.blocks, g.reason) for g in gates]
    return table(("gate", "bound", "verdict", "a failure blocks", "measured"), rows, style)


def measurements_table(
    measurements: dict[str, Measurement], names: dict[str, str], style: str = "github"
) -> str:
    """`names`: measurement → words; rows in that order, how and where it was measured beside it."""
    rows = []
    for name, words in names.items():
        m = measurements.get(name)
        how = "; ".join(filter(None, (m.how, m.where))) if m else ""
        rows.append((words, shown(m), how))
    return table(("measurement", "value", "how"), rows, style)
