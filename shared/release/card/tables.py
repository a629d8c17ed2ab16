"""Tables of a card and of the terminal: attempts, recipes side by side, gates."""

from __future__ import annotations

from collections.abc import Sequence

from shared.base.tables import shown, table
from shared.release.gates import GateResult
from shared.release.model import Attempt


def attempts_table(attempts: Sequence[Attempt], style: str = "github") -> str:
    """Every rung tried: what became of it, how far it got, and why."""
    rows = [(a.rung, a.recipe, a.outcome, a.stage, a.reason) for a in attempts]
    return table(("rung", "recipe", "outcome", "stage reached", "reason"), rows, style)


RECIPE_COLUMNS = {
    "q4f16_bytes": "q4f16",
    "q4_bytes": "q4",
    "kl_divergence": "KL divergence",
    "agreement": "agreement",
    "cpu_decode_tokens_per_second": "CPU decode",
    "webgpu_decode_tokens_per_second": "WebGPU decode",
}


def recipes_table(attempts: Sequence[Attempt], style: str = "github") -> str:
    """The recipes of one rung side by side; empty where no rung was built by more than one."""
    compared = [a for a in attempts if "kl_divergence" in a.measured]
    rows = [
        (a.rung, a.recipe, a.outcome, *(shown(a.measured.get(name)) for name in RECIPE_COLUMNS))
        for a in compared
    ]
    return (
        table(("rung", "recipe", "outcome", *RECIPE_COLUMNS.values()), rows, style) if rows else ""
    )


def gates_table(gates: Sequence[GateResult], style: str = "github") -> str:
    """Every gate: its bound, the verdict, what it stops and the figure or reason behind it."""
    rows = [(g.name, g.bound, g.outcome, g.blocks, g.reason) for g in gates]
    return table(("gate", "bound", "verdict", "a failure blocks", "measured"), rows, style)
