"""What a graph brings to a GPU: its initializers by name and size, and its cache by token.

Read from the .onnx file alone; the external data need not be there.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import helper

from shared.base.parsing import read_json
from shared.olive.lint.files import byte_length

LARGE = 1024
"""Initializers under this many bytes are numbers and shapes, not weights."""


@dataclass(frozen=True)
class Footprint:
    """Of one graph file: weights in bytes by name, the cache's bytes a token of context, the bytes
    of logits a token read at once, and how many tokens the model was made for."""

    dtype: str
    weights: dict[str, int]
    cache_bytes_per_token: int
    logits_bytes_per_token: int
    made_for: int | None = None

    @property
    def weight_bytes(self) -> int:
        return sum(self.weights.values())

    @property
    def largest(self) -> tuple[str, int]:
        """Name and bytes of the largest weight."""
        name = max(self.weights, key=lambda key: self.weights[key])
        return name, self.weights[name]


def read_footprint(graph: Path) -> Footprint:
    """The footprint of a package's `onnx/model_<dtype>.onnx`."""
    proto = onnx.load(graph, load_external_data=False)
    config = graph.parent.parent / "config.json"
    made_for = read_json(config).get("max_position_embeddings") if config.is_file() else None
    return footprint(proto, graph.stem.removeprefix("model_"), made_for)


def footprint(proto: onnx.ModelProto, dtype: str, made_for: int | None = None) -> Footprint:
    """The footprint of a graph that is in memory; its tensors may be without their bytes."""
    weights = {t.name: byte_length(t) for t in proto.graph.initializer if byte_length(t) >= LARGE}
    cache = sum(
        _bytes_per_position(value)
        for value in proto.graph.input
        if value.name.startswith("past_key_values")
    )
    logits = next(value for value in proto.graph.output if value.name == "logits")
    return Footprint(dtype, weights, cache, _bytes_per_position(logits), made_for)


def _bytes_per_position(value: onnx.ValueInfoProto) -> int:
    """Bytes for one position of one text: the product of the dimensions that are numbers."""
    kind = value.type.tensor_type
    fixed = prod(d.dim_value for d in kind.shape.dim if not d.dim_param and d.dim_value)
    return fixed * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
