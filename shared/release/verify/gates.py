"""Do the verdicts follow from release.json's own data? Each is judged again, as far as that goes.

A bound stands there as a person reads it, so rounded: a value within its rounding is let pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from shared.base.formatting import interval, number
from shared.base.manifest import Measurement, Value
from shared.base.tables import shown
from shared.release.gates import GateResult, failed
from shared.release.model import Release

BOUND = re.compile(r"([≥≤]) (-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?: (.+))?")
SCALES = {("share", "%"): 0.01, ("B", "GB"): 1e9, ("B", "MB"): 1e6}


def contradictions(release: Release) -> Iterator[str]:
    """A sentence for each gate that says other than its measurement and bound lead to."""
    for gate in release.gates:
        m = release.measurements.get(gate.measurement)
        if m is None:
            yield f"gate {gate.name!r}: {gate.measurement} was not measured"
        elif m.value != gate.value or not _says(gate, m):
            yield f"gate {gate.name!r}: says {gate.reason!r}, measured was {shown(m)}"
        elif gate.outcome not in (possible := verdicts(gate, m)):
            yield (
                f"gate {gate.name!r}: says {gate.outcome!r}, but {shown(m)} against "
                f"{gate.bound} is {' or '.join(map(repr, sorted(possible)))}"
            )
    stops = failed(release.gates, "publish")
    if release.publishable and stops:
        yield f"publishable: says true, but the gate {stops[0].name!r} failed"


def verdicts(gate: GateResult, m: Measurement) -> set[str]:
    """What the gate can have come to: more than one where the data cannot tell them apart."""
    if m.value is None:
        return {"not measured"}
    at_point = {"pass" if held else "fail" for held in _holds(gate.bound, m.value, m.unit)}
    if m.software_adapter and "software adapter" in gate.reason and gate.outcome == "not measured":
        return {"not measured"}  # a gate for hardware alone
    if m.low is None or m.high is None:
        return at_point | ({"not measured"} if gate.reason == "it has no interval" else set())
    if interval(m.low, m.high, m.unit) not in gate.reason:
        return at_point
    ends = [_holds(gate.bound, end, m.unit) for end in (m.low, m.high)]
    both = {(a, b) for a in ends[0] for b in ends[1]}
    words = {(True, True): "pass", (False, False): "fail"}
    return {words.get(pair, "not measured") for pair in both}


def _holds(bound: str, value: Value, unit: str) -> set[bool]:
    """Whether the value keeps the bound; both where only the bound's rounding could tell."""
    if not (found := BOUND.fullmatch(bound)):
        return {number(value, unit) == bound}
    if not isinstance(value, int | float):
        return {False}
    digits = float(found[2].replace(",", ""))
    scale = SCALES.get((unit, found[3] or ""), 1.0)
    slack = scale * _rounding(found[2], digits, unit) * 1.000001
    edges = (digits * scale - slack, digits * scale + slack)
    return {value >= e if found[1] == "≥" else value <= e for e in (*edges, digits * scale)}


def _rounding(text: str, digits: float, unit: str) -> float:
    """Half of the last place that `shared.base.formatting.number` kept."""
    if unit in ("share", "B"):
        return 0.5 * 10.0 ** -len(text.partition(".")[2])
    if not digits or "," in text:
        return 0.0
    return 0.5 * 10.0 ** (math.floor(math.log10(abs(digits))) - 2)


def _says(gate: GateResult, m: Measurement) -> bool:
    """A passed gate repeats its measurement in the same words, a failed one begins with them."""
    if m.value is None or gate.outcome == "not measured":
        return True
    text = number(m.value, m.unit)
    if gate.outcome == "fail":
        return gate.reason.startswith(text) or gate.reason == m.reason
    said = [text, f"{text} (software adapter)"]
    if m.low is not None and m.high is not None:
        said.append(f"{text} ({interval(m.low, m.high, m.unit)})")
    return gate.reason in said
