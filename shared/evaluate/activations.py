"""The largest magnitude of every activation of a graph, by a probe behind each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from shared.base.errors import RungFailed, of_this_machine
from shared.evaluate.models.onnx import OnnxDecoder, set_exact

LAYER = re.compile(r"layers?[._/](\d+)")
WATCHED = {
    *("MatMulNBits", "MatMul", "Mul", "Add", "GroupQueryAttention", "GatherBlockQuantized"),
    *("Gather", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
}

PASS = 64
"""So many tokens are read at once."""


@dataclass(frozen=True)
class Peak:
    """The largest magnitude one activation reached; `layer` is "embed", a number, or "head"."""

    layer: str
    tensor: str
    operator: str
    largest: float


def find_peaks(graph: Path, texts: list[list[int]]) -> list[Peak]:
    """The largest magnitude of every watched activation over all of `texts`, in graph order.

    Raises RungFailed where onnxruntime cannot run the graph with its probes.
    """
    model, watched = _probed(graph)
    names = [f"{peak.tensor}/peak" for peak in watched]
    try:
        decoder = OnnxDecoder(graph, model=model)
        values = [value for ids in texts for value in _values(decoder, names, ids)]
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        if of_this_machine(error):  # want of memory says nothing of the graph
            raise
        first = str(error).splitlines()[0]
        raise RungFailed(f"the graph cannot be run with its probes: {first}") from error
    largest = np.maximum.reduce(values)
    return [
        Peak(peak.layer, peak.tensor, peak.operator, float(value))
        for peak, value in zip(watched, largest, strict=True)
    ]


def _values(decoder: OnnxDecoder, names: list[str], ids: list[int]) -> Iterator[np.ndarray]:
    """The outputs `names` for one text, pass after pass: onnxruntime keeps what a probe looks at until
    the pass is over, some 10 MB for each token of a 3B."""
    decoder.reset()
    for start in range(0, len(ids), PASS):
        found = decoder.advance(names, ids[start : start + PASS])
        yield np.array(found, np.float64).reshape(-1)


def _probed(graph: Path) -> tuple[bytes, list[Peak]]:
    """The graph with a probe behind each watched output, without int8 activations."""
    try:
        model = set_exact(onnx.load(graph, load_external_data=False))
        integers = _integer_outputs(model)
    except Exception as error:  # protobuf's and onnx's exceptions share no base of their own
        raise RungFailed(f"{graph.name} is no ONNX graph: {error}") from error
    watched: list[Peak] = []
    layer, probes = "embed", []
    for node in model.graph.node:
        layer = _layer(node, layer)
        if node.op_type in WATCHED:
            for output in _activations(node, integers):
                watched.append(Peak(layer, output, node.op_type, 0.0))
                probes += _probe(output)
    model.graph.node.extend(probes)
    model.graph.output.extend(
        helper.make_tensor_value_info(f"{peak.tensor}/peak", TensorProto.FLOAT, [])
        for peak in watched
    )
    return model.SerializeToString(), watched


def _probe(output: str) -> list[onnx.NodeProto]:
    """The largest magnitude, plus the sum less itself: nothing, but for what is not a number, which
    onnxruntime's ReduceMax passes over."""
    make = helper.make_node
    return [
        make("Abs", [output], [f"{output}/abs"]),
        make("ReduceMax", [f"{output}/abs"], [f"{output}/max"], keepdims=0),
        make("ReduceSum", [f"{output}/abs"], [f"{output}/sum"], keepdims=0),
        make("Sub", [f"{output}/sum"] * 2, [f"{output}/nothing"]),
        make("Add", [f"{output}/max", f"{output}/nothing"], [f"{output}/peak"]),
    ]


def _layer(node: onnx.NodeProto, current: str) -> str:
    """Fused nodes carry no layer in their names; their weights do, or the node before them."""
    for name in (node.name, *node.output, *node.input):
        if found := LAYER.search(name):
            return found[1]
    return "head" if "head" in node.name or "logits" in node.output else current


def _activations(node: onnx.NodeProto, integers: set[str]) -> list[str]:
    """The outputs that carry activations: of an attention all, of a skip-norm the norm and the sum
    that goes on (0 and 3); its unused statistics (1 and 2) may not even be computed."""
    outputs = node.output
    if "LayerNormalization" in node.op_type:
        outputs = [*outputs[:1], *outputs[3:]]
    return [output for output in outputs if output and output not in integers]


def _integer_outputs(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    return {
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type not in (0, TensorProto.FLOAT)
    }
