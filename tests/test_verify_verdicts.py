"""A gate's verdict in release.json is judged again from the gate and the measurement beside it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from shared.base.manifest import Measurement
from shared.domain.settings import Gate
from shared.release.gates import GateResult, Outcome, judge
from shared.release.model import Release
from shared.release.verify.card import contradictions

SHARE = {"unit": "share"}
SURE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, **SHARE}
SLOW = {"value": 1.0, "unit": "tokens/s", "software_adapter": True}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"value": 0.5, **SHARE}, {"at_least": 0.98}),
    ({"value": 0.99, **SHARE}, {"at_least": 0.98}),
    ({"value": 0.98, **SHARE}, {"at_least": 0.98}),
    ({"value": 0.9798, **SHARE}, {"at_least": 0.9797}),
    ({"value": 3e9, "unit": "B"}, {"at_most": 2e9}),
    ({"value": 1.5e9, "unit": "B"}, {"at_most": 2e9}),
    ({"value": 12.3, "unit": "tokens/s"}, {"at_least": 5}),
    ({"value": 4.9, "unit": "tokens/s"}, {"at_least": 5}),
    ({"value": 12345, "unit": "tokens"}, {"at_most": 8192}),
    ({"value": 1e-5}, {"at_most": 2e-4}),
    ({"value": 0}, {"at_most": 0}),
    ({"value": 1}, {"at_most": 0}),
    ({"value": True}, {"equals": True}),
    ({"value": False}, {"equals": True}),
    ({"value": "x"}, {"at_least": 5}),
    (SURE, {"at_least": 0.7, "with_confidence": True}),
    (SURE, {"at_least": 0.99, "with_confidence": True}),
    (SURE, {"at_least": 0.85, "with_confidence": True}),
    (SURE, {"at_least": 0.85}),
    ({"value": 0.9, **SHARE}, {"at_least": 0.85, "with_confidence": True}),
    ({"value": None, "reason": "no browser"}, {"at_least": 1}),
    (SLOW, {"at_least": 5, "hardware_only": True}),
    (SLOW, {"at_least": 5}),
]


def said(measured: dict[str, Any], stated: GateResult) -> list[str]:
    """What is found in a release that states this result, after a way through JSON."""
    stated = GateResult.model_validate_json(stated.model_dump_json())
    release = Release.model_construct(
        measurements={"s.m": Measurement(**measured)}, gates=[stated], publishable=False
    )
    return list(contradictions(release))


@pytest.mark.parametrize(("measured", "bound"), CASES, ids=str)
class TestAVerdict:
    def judged(self, measured: dict[str, Any], bound: dict[str, Any]) -> GateResult:
        return judge(Gate(name="g", measurement="s.m", **bound), Measurement(**measured))

    def test_holds_as_it_was_judged(self, measured: dict[str, Any], bound: dict[str, Any]) -> None:
        assert said(measured, self.judged(measured, bound)) == []

    def test_is_contradicted_where_it_is_another(
        self, measured: dict[str, Any], bound: dict[str, Any]
    ) -> None:
        judged = self.judged(measured, bound)
        for other in set(get_args(Outcome)) - {judged.outcome}:
            (sentence,) = said(measured, judged.model_copy(update={"outcome": other}))
            assert f"says {other!r}" in sentence and f"is {judged.outcome!r}" in sentence

    @pytest.mark.parametrize("key", ["reason", "value", "unit"])
    def test_is_contradicted_where_its_figure_is_another(
        self, measured: dict[str, Any], bound: dict[str, Any], key: str
    ) -> None:
        judged = self.judged(measured, bound)
        (sentence,) = said(measured, judged.model_copy(update={key: "77"}))
        assert "measured was" in sentence


def test_a_gate_over_what_was_not_even_tried_is_a_contradiction() -> None:
    judged = judge(Gate(name="g", measurement="s.other", at_least=1), Measurement(value=2))
    assert said({"value": 2}, judged) == ["gate 'g': s.other was not measured"]
