"""Which of two recipes is kept: by distance from the parent, speed and bytes."""

from __future__ import annotations

from typing import Any

import pytest

from shared.evaluate.fidelity import Candidate, better
from shared.manifest import Manifest, Measurement


def manifest(**values: float) -> Manifest:
    empty: dict[str, Any] = {"inputs": {}, "settings": {}, "tools": {}, "outputs": {}, "facts": {}}
    rest = {"wall_seconds": 0, "peak_rss_bytes": 0, "finished": "", "stage": "s", "key": "k"}
    found = {name: Measurement(value=value) for name, value in values.items()}
    return Manifest(measurements=found, **empty, **rest)


def candidate(speed: float, loss: float, size: float, gpu: float | None = None) -> Candidate:
    fidelity = manifest(cpu_decode_tokens_per_second=speed, kl_divergence=loss)
    fidelity.measurements["kl_divergence"].standard_error = 0.01
    bench = manifest(decode_tokens_per_second=gpu) if gpu else None
    return Candidate(manifest(q4f16_bytes=size), fidelity, bench)


def test_speed_is_the_gpus_where_it_was_measured() -> None:
    both = {"olive": candidate(4, 0.1, 1, gpu=50), "optimum": candidate(10, 0.1, 1, gpu=20)}
    order, reason = better(both)
    assert order[0] == "olive" and "50 tokens/s against 20 tokens/s" in reason


CASES = {
    "the nearer one": ((10, 0.1, 9), (10, 0.2, 1), "olive", "nearer to the 16-bit parent"),
    "the nearer one though slower": ((6, 0.1, 9), (10, 0.2, 1), "olive", "nearer"),
    "not one at under half the speed": ((4, 0.1, 1), (10, 0.2, 9), "optimum", "twice as fast"),
    "the faster of two as near as noise": ((10, 0.11, 9), (9, 0.1, 1), "olive", "decodes faster"),
    "the smaller one of equals": ((10, 0.1, 9), (10, 0.1, 1), "optimum", "the smaller one"),
}


@pytest.mark.parametrize(("olive", "optimum", "kept", "why"), CASES.values(), ids=CASES)
def test_what_is_kept_is(
    olive: tuple[float, float, float], optimum: tuple[float, float, float], kept: str, why: str
) -> None:
    order, reason = better({"olive": candidate(*olive), "optimum": candidate(*optimum)})
    assert order[0] == kept and why in reason
