"""Stage 7, gates: each measurement compared with its bound; data in, verdicts out.

The gates themselves are data: `[[gate]]` in domains/defaults.toml or a domain's fallback.toml.

A measurement is named `<stage>.<name>`. What was not measured is neither passed nor failed, and a
software adapter's number never counts for a gate that asks for hardware. A release may go out only
where all that could be measured on any machine was (`unproven`).
"""

from collections.abc import Mapping
from typing import Literal

from shared.base.errors import UserError
from shared.base.formatting import interval, number
from shared.base.manifest import Manifest, Measurement, Strict, Value
from shared.base.parsing import nearest
from shared.domain.settings import Gate

Outcome = Literal["pass", "fail", "not measured"]


class GateResult(Strict):
    """A gate's verdict on a measurement of this value and unit; `reason` has both sides in words."""

    gate: Gate
    value: Value
    unit: str
    outcome: Outcome
    reason: str

    @property
    def name(self) -> str:
        return self.gate.name

    @property
    def bound(self) -> str:
        """The bound as a person reads it."""
        return bound_text(self.gate, self.unit)


def judge_gates(gates: list[Gate], manifests: Mapping[str, Manifest]) -> list[GateResult]:
    """Each gate's verdict on the stages' measurements.

    Raises UserError where a gate names a measurement that no stage makes: a typo must not pass.
    """
    measured = flatten(manifests)
    for gate in gates:
        if gate.measurement not in measured:
            hint = nearest(gate.measurement, list(measured))
            raise UserError(
                f"gate {gate.name!r}: measurement: no stage measures {gate.measurement!r}; {hint}"
            )
    return [judge(gate, measured[gate.measurement]) for gate in gates]


def flatten(manifests: Mapping[str, Manifest]) -> dict[str, Measurement]:
    """All measurements of all stages under `<stage>.<name>`."""
    return {
        f"{stage}.{name}": measurement
        for stage, manifest in manifests.items()
        for name, measurement in manifest.measurements.items()
    }


def failed(results: list[GateResult], blocks: str) -> list[GateResult]:
    """The failed gates that block `blocks`; what blocks the release blocks publishing too."""
    stops = ("release", "publish") if blocks == "publish" else (blocks,)
    return [r for r in results if r.outcome == "fail" and r.gate.blocks in stops]


def unproven(results: list[GateResult]) -> list[GateResult]:
    """Gates that stop a publication though any machine could decide them: nothing was measured, or
    too little to tell.

    Where a GPU decided its own gates, a software adapter's have nothing to say.
    """
    on_gpu = any(r.gate.hardware_only and r.outcome != "not measured" for r in results)
    undecided = [r for r in results if r.outcome == "not measured" and r.gate.blocks != "nothing"]
    open_ = [r for r in undecided if r.value is None or r.gate.with_confidence]
    return [r for r in open_ if not r.gate.hardware_only and not (on_gpu and r.gate.software_only)]


def without_gpu(results: list[GateResult]) -> list[GateResult]:
    """Gates that only a GPU can decide, undecided: to publish all the same must be asked for."""
    open_ = [r for r in results if r.outcome == "not measured" and r.gate.blocks != "nothing"]
    return [r for r in open_ if r.gate.hardware_only]


def judge(gate: Gate, measurement: Measurement) -> GateResult:
    """The verdict, from the gate and the measurement alone: `verify` judges again by it."""
    outcome, reason = _outcome(gate, measurement)
    value, unit = measurement.value, measurement.unit
    return GateResult(gate=gate, value=value, unit=unit, outcome=outcome, reason=reason)


def _outcome(gate: Gate, measurement: Measurement) -> tuple[Outcome, str]:
    if measurement.value is None:
        return "not measured", measurement.reason or "not measured"
    if gate.hardware_only and measurement.software_adapter:
        return "not measured", "software adapter: it says nothing about a GPU"
    if gate.software_only and not measurement.software_adapter:
        return "not measured", "a GPU computes in other types; this bound is for float32"
    if gate.with_confidence:
        return _with_confidence(gate, measurement)
    text = number(measurement.value, measurement.unit)
    if measurement.software_adapter:
        text += " (software adapter)"
    if _holds(gate, measurement.value):
        return "pass", text
    return "fail", measurement.reason or f"{text}, wanted {bound_text(gate, measurement.unit)}"


def _with_confidence(gate: Gate, measurement: Measurement) -> tuple[Outcome, str]:
    """Both ends of the interval compared with the bound; between them there is no verdict."""
    low, high = measurement.low, measurement.high
    bound = bound_text(gate, measurement.unit)
    if low is None or high is None:
        return "not measured", "it has no interval"
    text = (
        f"{number(measurement.value, measurement.unit)} ({interval(low, high, measurement.unit)})"
    )
    held = [_holds(gate, end) for end in (low, high)]
    if all(held):
        return "pass", text
    if not any(held):
        return "fail", f"{text}, wanted {bound}"
    return "not measured", f"{text}: n = {measurement.n} is too few to tell"


def _holds(gate: Gate, value: bool | int | float | str) -> bool:
    if gate.equals is not None:
        return value == gate.equals
    if isinstance(value, str):
        return False
    if gate.at_least is not None:
        return value >= gate.at_least
    return gate.at_most is not None and value <= gate.at_most


def bound_text(gate: Gate, unit: str) -> str:
    """The bound as a person reads it."""
    if gate.at_least is not None:
        return f"≥ {number(gate.at_least, unit)}"
    if gate.at_most is not None:
        return f"≤ {number(gate.at_most, unit)}"
    return number(gate.equals, unit)
