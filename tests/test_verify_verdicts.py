"""A gate's verdict in release.json is judged again from the data beside it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.base.manifest import Measurement
from shared.domain.settings import Gate
from shared.release.gates import GateResult, judge_gates
from shared.release.verify.gates import verdicts
from tests.test_gates import manifests

SHARE = {"unit": "share"}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"value": 0.5, **SHARE}, {"at_least": 0.98}),
    ({"value": 0.99, **SHARE}, {"at_least": 0.98}),
    ({"value": 0.98, **SHARE}, {"at_least": 0.98}),
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
    ({"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, **SHARE}, {"at_least": 0.7}),
    ({"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, **SHARE}, {"at_least": 0.99}),
    ({"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, **SHARE}, {"at_least": 0.85}),
    ({"value": None, "reason": "no browser"}, {"at_least": 1}),
]


def judged(measured: dict[str, Any], bound: dict[str, Any]) -> tuple[GateResult, Measurement]:
    m = Measurement(**measured)
    gate = Gate(name="g", measurement="s.m", with_confidence="low" in measured, **bound)
    return judge_gates([gate], manifests(m))[0], m


@pytest.mark.parametrize(("measured", "bound"), CASES)
def test_the_verdict_that_was_judged_is_possible(
    measured: dict[str, Any], bound: dict[str, Any]
) -> None:
    gate, m = judged(measured, bound)
    assert gate.outcome in verdicts(gate, m)


@pytest.mark.parametrize(
    ("measured", "bound"), [c for c in CASES if c[0]["value"] != 0.98], ids=str
)
def test_the_other_verdicts_are_not(measured: dict[str, Any], bound: dict[str, Any]) -> None:
    gate, m = judged(measured, bound)
    assert verdicts(gate, m) == {gate.outcome}


def test_a_bound_within_its_rounding_is_let_pass_either_way() -> None:
    gate, m = judged({"value": 0.9798, **SHARE}, {"at_least": 0.9797})
    assert verdicts(gate, m) == {"pass", "fail"}


def test_a_speed_on_a_software_adapter_may_count_for_nothing() -> None:
    m = Measurement(value=1.0, unit="tokens/s", software_adapter=True)
    gate = Gate(name="g", measurement="s.m", at_least=5, hardware_only=True)
    assert verdicts(judge_gates([gate], manifests(m))[0], m) == {"not measured"}
