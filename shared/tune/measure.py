"""What a recipe's build is measured by, besides its fidelity: bits per weight and decode speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from shared.evaluate.forced import ForcedModel

WEIGHTS = ("_q4", "_scales", "_zeros", "weight", "bias")
PROMPT = 32
DECODED = 32


def weight_bits(graph: Path) -> int:
    """Bits of all weights, scales and zero points; tables that the graph computes with are not."""
    model = onnx.load(graph, load_external_data=False)
    return 8 * sum(_bytes(t) for t in model.graph.initializer if t.name.endswith(WEIGHTS))


def _bytes(tensor: onnx.TensorProto) -> int:
    place: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
    return int(place["length"]) if "length" in place else len(tensor.raw_data)


def decode_speeds(graphs: dict[str, Path], ids: list[int], rounds: int = 3) -> dict[str, float]:
    """Greedy tokens/s of each on the CPU: the best of some rounds taken in turn, so that other work
    on the machine does not hit one of them alone."""
    best = dict.fromkeys(graphs, 0.0)
    for _ in range(rounds):
        for name, graph in graphs.items():
            best[name] = max(best[name], ForcedModel(graph).decode_speed(ids[:PROMPT], DECODED))
    return best
