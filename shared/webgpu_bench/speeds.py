"""The bench's further measurements: the second load, and every point of llama-bench's kind.

Names: warm_load_seconds, load_bytes, prefill_tokens_per_second_at_512, decode_tokens_per_second_at_512.
"""

from __future__ import annotations

from shared.base.manifest import Measurement
from shared.webgpu_bench.figures import Figure, figures
from shared.webgpu_bench.result import BrowserResult


def speeds(result: BrowserResult, where: str) -> dict[str, Measurement]:
    """Measurements by name, besides those every bench has."""
    found = {f"{f.test}_tokens_per_second_at_{f.tokens}": _speed(f) for f in figures(result.runs)}
    found["load_bytes"] = Measurement(
        value=result.load.bytes_fetched, unit="B", how="fetched by the first load"
    )
    found["warm_load_seconds"] = _warm(result)
    soft = result.software_adapter
    return {
        name: m.model_copy(update={"where": where, "software_adapter": soft})
        for name, m in found.items()
    }


def _speed(figure: Figure) -> Measurement:
    what = {
        "prefill": f"prompt of {figure.tokens} tokens / time to first token",
        "decode": f"tokens after the first, {figure.tokens} in the cache",
    }
    spread = f"; standard deviation {figure.sd:.2g}" if figure.sd is not None else ""
    return Measurement(
        value=figure.mean,
        unit="tokens/s",
        how=what[figure.test] + spread,
        n=len(figure.samples),
        samples=list(figure.samples),
    )


def _warm(result: BrowserResult) -> Measurement:
    if result.warm_load is None:
        return Measurement.missing(result.warm_load_reason or "there was no second load", "s")
    return Measurement(value=result.warm_load.seconds, unit="s", how="again, from the Cache API")
