"""How far a build is from its parent, and which recipe is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shared.evaluate.fidelity import Candidate, better, compare_logits
from shared.manifest import Manifest, Measurement


class TestKlDivergence:
    def test_is_torchs(self) -> None:
        parent, ours = torch.randn(5, 40), torch.randn(5, 40)
        theirs = torch.nn.functional.kl_div(
            ours.log_softmax(-1), parent.log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)
        assert np.allclose(compare_logits(parent.numpy(), ours.numpy())[0], theirs, atol=1e-5)

    def test_is_zero_for_the_same_logits_up_to_a_shift(self) -> None:
        logits = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
        divergence, agreement = compare_logits(logits, logits + 7)
        assert np.allclose(divergence, 0, atol=1e-6) and agreement.all()


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
