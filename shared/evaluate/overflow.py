"""Headroom of fp16: 65504 over the largest magnitude of every layer's activations.

An overflow in fp16 need not show at the output: a normalisation after it turns infinity into a
plausible number (onnxruntime #31626). So the true magnitudes are looked at, not the rounded ones:
the q4 graph, which is the q4f16 graph in fp32, reads held-out chats on the CPU, with a probe behind
each activation. `f16_headroom` is 0 where that could not be looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.base.errors import RungFailed
from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.evaluate.models.chat import Chat
from shared.evaluate.token_windows import prompt_end

if TYPE_CHECKING:  # a release in which nothing changed does without onnx
    from shared.evaluate.activations import Peak

LARGEST_F16 = 65504.0
"""IEEE 754 binary16: (2 − 2⁻¹⁰) · 2¹⁵."""

AT_RISK = 0.5
"""A layer is named where it reaches this share of the largest fp16."""

TOKENS, RECORDS = 256, 4


def overflow_stage(domain: Domain, package: StageResult, *, force: bool = False) -> StageResult:
    """Measure `f16_headroom`; facts: the peak of each layer and the layers at risk."""
    plan = Plan(
        "overflow",
        inputs={"package": package.manifest.key},
        settings={
            "prompt": sha256_json(domain.prompt),
            "records": sha256_json([[r.input, r.gold] for r in domain.records[:RECORDS]]),
            "tokens": TOKENS,
        },
        tools=tool_versions("onnxruntime", "onnx"),
        code=(__name__,),
    )
    return run_stage(plan, lambda work: _measure(domain, package.folder), force=force)


def _measure(domain: Domain, package: Path) -> Produced:
    say("      looking for the largest activations of each layer")
    graph = package / "onnx" / "model_q4.onnx"
    if not graph.is_file():
        reason = "the package has no q4 file, which is the q4f16 graph in fp32"
        return Produced({"f16_headroom": Measurement.missing(reason, "x")})
    from shared.evaluate.activations import find_peaks

    chat, records = Chat(package), domain.records[:RECORDS]
    texts = [prompt_end(chat, domain.prompt, record, TOKENS) for record in records]
    try:
        layers = by_layer(find_peaks(graph, texts))
    except RungFailed as error:  # nothing is proven, which must not pass
        failed = Measurement(value=0.0, unit="x", how="not looked at", reason=str(error))
        return Produced({"f16_headroom": failed})
    return Produced(
        {"f16_headroom": headroom(layers, sum(map(len, texts)))}, facts=as_facts(layers)
    )


def headroom(layers: list[Peak], tokens: int) -> Measurement:
    """65504 over the largest activation; 0 where that is not even a number in fp32."""
    top = max(layers, key=_size)
    value = LARGEST_F16 / top.largest if np.isfinite(top.largest) and top.largest else 0.0
    risky = at_risk(layers)
    named = f"layers at risk: {', '.join(peak.layer for peak in risky)}" if risky else ""
    return Measurement(
        value=value,
        unit="x",
        how=f"65504 over the largest activation of the fp32 graph, {top.largest:.4g} in "
        f"{top.operator} of layer {top.layer}, held-out chats on the CPU",
        n=tokens,
        reason=f"{top.operator} of layer {top.layer} reaches {top.largest:.4g}, fp16 ends at "
        f"{LARGEST_F16:.0f}; {named}"
        if risky
        else None,
    )


def _size(peak: Peak) -> float:
    """The peak as it is ordered: what is not a number is past all numbers."""
    return peak.largest if np.isfinite(peak.largest) else float("inf")


def at_risk(layers: list[Peak]) -> list[Peak]:
    """The layers that come near fp16's end; not a number counts as past it."""
    return [peak for peak in layers if not peak.largest < AT_RISK * LARGEST_F16]


def as_facts(layers: list[Peak]) -> dict[str, Any]:
    """What the manifest keeps: a row a layer (JSON knows no infinity, so that is text)."""
    rows = [
        [p.layer, p.operator, p.tensor, p.largest if np.isfinite(p.largest) else str(p.largest)]
        for p in layers
    ]
    return {"peaks": rows, "at_risk": [peak.layer for peak in at_risk(layers)]}


def by_layer(peaks: list[Peak]) -> list[Peak]:
    """The largest one of each layer, in the graph's order."""
    largest: dict[str, Peak] = {}
    for peak in peaks:
        known = largest.get(peak.layer)
        if known is None or _size(peak) > _size(known):
            largest[peak.layer] = peak
    return list(largest.values())
