"""What a recipe's build is measured by, besides its fidelity: bits per weight and decode speed."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import onnx

from shared.base.progress import bar
from shared.evaluate.models.onnx import OnnxDecoder

WEIGHTS = ("_q4", "_scales", "_zeros", "weight", "bias")
PROMPT = 32
DECODED = 32
ROUNDS = 8


def weight_bits(graph: Path) -> int:
    """Bits of all weights, scales and zero points; tables that the graph computes with are not."""
    model = onnx.load(graph, load_external_data=False)
    return 8 * sum(_bytes(t) for t in model.graph.initializer if t.name.endswith(WEIGHTS))


def _bytes(tensor: onnx.TensorProto) -> int:
    place: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
    return int(place["length"]) if "length" in place else len(tensor.raw_data)


def decode_speeds(graphs: dict[str, Path], ids: list[int]) -> dict[str, float]:
    """Greedy tokens/s of each on the CPU: the median of ROUNDS that go through all of them in turn, so
    that what else the machine does hits none of them alone."""
    speeds: dict[str, list[float]] = {name: [] for name in graphs}
    with bar("decode", ROUNDS * len(graphs), "runs") as step:
        for _ in range(ROUNDS):
            for name, graph in graphs.items():
                speeds[name].append(OnnxDecoder(graph).decode_speed(ids[:PROMPT], DECODED))
                step(name)
    return {name: median(rounds) for name, rounds in speeds.items()}
