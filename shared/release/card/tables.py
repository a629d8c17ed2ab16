"""Tables of a card and of the terminal: attempts, builds side by side, gates."""

from collections.abc import Collection, Sequence

from shared.base.tables import shown, table
from shared.release.gates import GateResult
from shared.release.model import Attempt


def attempts_table(attempts: Sequence[Attempt], style: str = "github") -> str:
    """Every rung tried: what became of it, how far it got, and why."""
    rows = [(a.rung, a.exporter, a.outcome, a.stage, a.reason) for a in attempts]
    return table(("rung", "exporter", "outcome", "stage reached", "reason"), rows, style)


BUILD_COLUMNS = {
    "q4f16_bytes": "q4f16",
    "q4_bytes": "q4",
    "kl_divergence": "KL divergence",
    "agreement": "agreement",
    "cpu_decode_tokens_per_second": "CPU decode",
    "webgpu_decode_tokens_per_second": "WebGPU decode",
}


def builds_table(attempts: Sequence[Attempt], style: str = "github") -> str:
    """The builds that were measured, side by side; empty where none was."""
    rows = [
        (a.rung, a.exporter, a.outcome, *(shown(a.measured.get(name)) for name in BUILD_COLUMNS))
        for a in attempts
        if "kl_divergence" in a.measured
    ]
    heads = ("rung", "exporter", "outcome", *BUILD_COLUMNS.values())
    return table(heads, rows, style) if rows else ""


def gates_table(
    gates: Sequence[GateResult], style: str = "github", above: Collection[str] = ()
) -> str:
    """Every gate: its bound, the verdict, what it stops and the figure or reason behind it.

    `above`: measurements that the reader has seen already; only a reason without them is added.
    """
    rows = [
        (g.name, g.bound, g.outcome, g.gate.blocks, _behind(g, g.gate.measurement in above))
        for g in gates
    ]
    return table(("gate", "bound", "verdict", "a failure blocks", "measured"), rows, style)


def _behind(result: GateResult, seen: bool) -> str:
    if not seen or result.value is None:
        return result.reason
    _, _, why = result.reason.partition(": ")
    return f"above: {why}" if why and result.outcome == "not measured" else "above"
