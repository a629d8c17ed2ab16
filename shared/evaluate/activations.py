"""A graph with a probe behind every activation, so that its largest magnitude leaves as one number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from shared.base.errors import RungFailed
from shared.evaluate.models.session import session_options

LAYER = re.compile(r"layers?[._/](\d+)")
WATCHED = {
    "MatMulNBits",
    "MatMul",
    "Mul",
    "Add",
    "GroupQueryAttention",
    "GatherBlockQuantized",
    "Gather",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
}


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
    session = _session(model, graph.parent)
    largest = np.zeros(len(names))
    for ids in texts:
        values = _run(session, names, ids)
        largest = np.maximum(largest, np.array(values, np.float64).reshape(-1))
    return [
        Peak(peak.layer, peak.tensor, peak.operator, float(value))
        for peak, value in zip(watched, largest, strict=True)
    ]


def _probed(graph: Path) -> tuple[bytes, list[Peak]]:
    """The graph with a probe behind each watched output, exact activations, no int8."""
    try:
        model = onnx.load(graph, load_external_data=False)
        integers = _integer_outputs(model)
    except Exception as error:  # protobuf's and onnx's exceptions share no base of their own
        raise RungFailed(f"{graph.name} is no ONNX graph: {error}") from error
    watched: list[Peak] = []
    layer, probes = "embed", []
    for node in model.graph.node:
        layer = _layer(node, layer)
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
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
    that goes on; its unused statistics may not even be computed."""
    outputs = [o for i, o in enumerate(node.output) if o and not _is_statistic(node, i)]
    return [o for o in outputs if o not in integers]


def _is_statistic(node: onnx.NodeProto, index: int) -> bool:
    return "LayerNormalization" in node.op_type and index in (1, 2)


def _integer_outputs(model: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model)
    return {
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type not in (0, TensorProto.FLOAT)
    }


def _session(model: bytes, folder: Path) -> ort.InferenceSession:
    options = session_options(folder)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        first = str(error).splitlines()[0]
        raise RungFailed(f"the graph cannot be run with its probes: {first}") from error


def _run(session: ort.InferenceSession, names: list[str], ids: list[int]) -> Any:
    try:
        return session.run(names, _feeds(session, ids))
    except Exception as error:  # the same
        first = str(error).splitlines()[0]
        raise RungFailed(f"the graph with its probes failed: {first}") from error


def _feeds(session: ort.InferenceSession, ids: list[int]) -> dict[str, Any]:
    feeds: dict[str, Any] = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    feeds["input_ids"] = np.array([ids], np.int64)
    feeds["attention_mask"] = np.ones((1, len(ids)), np.int64)
    if any(value.name == "position_ids" for value in session.get_inputs()):
        feeds["position_ids"] = np.arange(len(ids), dtype=np.int64)[None]
    return feeds
