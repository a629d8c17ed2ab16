"""Which of several builds is the better one, by distance from the parent, speed, bytes and budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.base.manifest import Measurement
from shared.pipeline.choose import decode_speeds, rank
from shared.pipeline.stages import CPU_DECODE, WEBGPU_DECODE


def build(
    speed: float, loss: float, size: float, gpu: float | None = None
) -> Mapping[str, Measurement]:
    figures = {CPU_DECODE: speed, "kl_divergence": loss, "q4f16_bytes": size}
    figures |= {WEBGPU_DECODE: gpu} if gpu else {}
    return {name: Measurement(value=value) for name, value in figures.items()}


CASES = {
    "the nearer one": ((10, 0.1, 9), (10, 0.2, 1), "olive", "2 builds within 5 % of the fastest"),
    "the nearer one though a little slower": ((9.5, 0.1, 9), (10, 0.2, 1), "olive", "2 builds"),
    "not one at under 95 % of the speed": ((9.4, 0.1, 1), (10, 0.2, 9), "optimum", "1 build "),
    "the faster of two as near": ((10, 0.1, 9), (9.6, 0.1, 1), "olive", "0.1 nats/token"),
    "the smaller one of equals": ((10, 0.1, 9), (10, 0.1, 1), "optimum", "0.1 nats/token"),
}


@pytest.mark.parametrize(("olive", "optimum", "kept", "why"), CASES.values(), ids=CASES)
def test_what_is_kept_is(
    olive: tuple[float, float, float], optimum: tuple[float, float, float], kept: str, why: str
) -> None:
    order, reason = rank({"olive": build(*olive), "optimum": build(*optimum)})
    assert order[0] == kept and why in reason and len(order) == 2


class TestTheSpeedThatCounts:
    BOTH = {"olive": build(4, 0.1, 1, gpu=50), "optimum": build(10, 0.1, 1, gpu=20)}  # noqa: RUF012

    def test_is_the_gpus_in_a_release_where_it_was_measured(self) -> None:
        order, reason = rank(self.BOTH, webgpu=True)
        assert order[0] == "olive" and "fastest on WebGPU (50 tokens/s)" in reason

    def test_is_the_cpus_where_one_was_not_measured_on_a_gpu(self) -> None:
        order, reason = rank(self.BOTH | {"optimum": build(10, 0.1, 1)}, webgpu=True)
        assert order[0] == "optimum" and "fastest on the CPU (10 tokens/s)" in reason

    def test_is_the_cpus_where_the_choice_is_for_any_machine(self) -> None:
        assert rank(self.BOTH)[0][0] == "optimum"

    def test_is_not_made_by_one_lucky_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds = {"lucky": iter([40.0, 60.0] + [40.0] * 6), "steady": iter([50.0] * 8)}

        class Model:
            def __init__(self, graph: Path) -> None:
                self.graph = graph

            def decode_speed(self, ids: list[int], tokens: int) -> float:
                return next(rounds[self.graph.name])

        monkeypatch.setattr("shared.evaluate.models.onnx.OnnxDecoder", Model)
        assert decode_speeds({n: Path(n) for n in rounds}, [1]) == {"lucky": 40, "steady": 50}


class TestTheBudget:
    def test_keeps_out_what_is_larger_also_as_the_fastest(self) -> None:
        order, reason = rank({"a": build(5, 0.3, 9), "big": build(50, 0.1, 11)}, 10)
        assert order == ["a"] and "1 build within the budget and within 5 %" in reason

    def test_may_leave_nothing(self) -> None:
        assert rank({"big": build(50, 0.1, 11)}, 10)[0] == []
