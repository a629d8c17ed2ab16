"""Gates hold measurements against bounds; what was not measured never passes and never fails."""

from __future__ import annotations

from typing import Any

import pytest

from shared.base.errors import UserError
from shared.base.manifest import Manifest, Measurement
from shared.domain.domain import load_domain
from shared.domain.settings import Gate
from shared.release.gates import failed, judge, judge_gates, unproven
from shared.webgpu_bench.layers import WHOLE


def manifests(measurement: Measurement) -> dict[str, Manifest]:
    """One stage `s` with one measurement `m`."""
    empty: dict[str, Any] = {"inputs": {}, "settings": {}, "tools": {}, "outputs": {}, "facts": {}}
    rest = {"wall_seconds": 0, "peak_rss_bytes": 0, "finished": "", "stage": "s", "key": "k"}
    return {"s": Manifest(measurements={"m": measurement}, **empty, **rest)}


def outcome(measurement: Measurement, **bound: Any) -> str:
    gate = Gate(name="g", measurement="s.m", **bound)
    return judge_gates([gate], manifests(measurement))[0].outcome


@pytest.mark.parametrize(
    ("value", "bound", "expected"),
    [
        (1_999_999_999, {"at_most": 2_000_000_000}, "pass"),
        (2_000_000_000, {"at_most": 2_000_000_000}, "pass"),
        (2_000_000_001, {"at_most": 2_000_000_000}, "fail"),
        (5.0, {"at_least": 5}, "pass"),
        (4.99, {"at_least": 5}, "fail"),
        (True, {"equals": True}, "pass"),
        (False, {"equals": True}, "fail"),
        ("x", {"at_least": 5}, "fail"),
    ],
)
def test_a_bound_is_held(value: Any, bound: dict[str, Any], expected: str) -> None:
    assert outcome(Measurement(value=value), **bound) == expected


def test_an_unmeasured_value_is_neither_passed_nor_failed() -> None:
    assert outcome(Measurement.missing("no browser"), equals=True) == "not measured"


class TestASoftwareAdapter:
    FAST = Measurement(value=100.0, unit="tokens/s", software_adapter=True)

    def test_never_passes_a_speed_gate(self) -> None:
        assert outcome(self.FAST, at_least=5, hardware_only=True) == "not measured"

    def test_never_fails_one_either(self) -> None:
        slow = self.FAST.model_copy(update={"value": 0.1})
        assert outcome(slow, at_least=5, hardware_only=True) == "not measured"

    def test_counts_where_speed_is_not_asked(self) -> None:
        assert outcome(self.FAST, at_least=5) == "pass"


@pytest.mark.parametrize(("on_gpu", "open_gates"), [(False, ["float32"]), (True, [])])
def test_what_only_a_software_adapter_shows_is_not_asked_for_where_a_gpu_was(
    on_gpu: bool, open_gates: list[str]
) -> None:
    speed = Gate(name="speed", measurement="s.m", at_least=5, hardware_only=True)
    float32 = Gate(name="float32", measurement="s.m", equals=True, software_only=True)
    fast = Measurement(value=9.0, unit="tokens/s", software_adapter=not on_gpu)
    results = [judge(speed, fast), judge(float32, Measurement.missing("a GPU"))]
    assert [result.name for result in unproven(results)] == open_gates


def test_layers_are_looked_at_from_the_very_bound_on_that_fails_the_whole() -> None:
    gates = load_domain("legal").chain.gate
    (whole,) = (g for g in gates if g.measurement == "bench.parity_logits_error")
    assert whole.at_most == WHOLE


def test_a_typo_in_a_gate_does_not_pass() -> None:
    with pytest.raises(UserError, match=r"no stage measures 's\.n'; did you mean 's\.m'"):
        judge_gates(
            [Gate(name="g", measurement="s.n", at_least=1)], manifests(Measurement(value=1))
        )


def test_what_blocks_the_release_blocks_publishing_too() -> None:
    gates = [
        Gate(name="a", measurement="s.m", at_least=2, blocks="release"),
        Gate(name="b", measurement="s.m", at_least=2, blocks="publish"),
        Gate(name="c", measurement="s.m", at_least=2, blocks="nothing"),
    ]
    results = judge_gates(gates, manifests(Measurement(value=1)))
    assert [r.name for r in failed(results, "release")] == ["a"]
    assert [r.name for r in failed(results, "publish")] == ["a", "b"]


class TestWithConfidence:
    """The whole interval decides; a few records can neither pass nor fail it."""

    def lost(self, low: float | None, high: float | None) -> Measurement:
        return Measurement(value=-0.05, unit="share", n=40, low=low, high=high)

    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (-0.09, 0.01, "pass"),
            (-0.1, 0.01, "pass"),
            (-0.3, -0.11, "fail"),
            (-0.3, 0.2, "not measured"),
            (None, None, "not measured"),
        ],
    )
    def test_at_least_asks_for_both_ends(
        self, low: float | None, high: float | None, expected: str
    ) -> None:
        found = outcome(self.lost(low, high), at_least=-0.1, with_confidence=True)
        assert found == expected

    def test_at_most_asks_for_both_ends(self) -> None:
        assert outcome(self.lost(-0.3, -0.11), at_most=-0.1, with_confidence=True) == "pass"
        assert outcome(self.lost(-0.09, 0.1), at_most=-0.1, with_confidence=True) == "fail"

    def test_says_that_there_are_too_few(self) -> None:
        gate = Gate(name="g", measurement="s.m", at_least=-0.1, with_confidence=True)
        (result,) = judge_gates([gate], manifests(self.lost(-0.3, 0.2)))
        assert result.reason.endswith("n = 40 is too few to tell")

    def test_goes_with_a_bound_that_has_a_side(self) -> None:
        with pytest.raises(ValueError, match="with_confidence goes with at_least or at_most"):
            Gate(name="g", measurement="s.m", equals=True, with_confidence=True)
