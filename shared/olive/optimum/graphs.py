"""From Optimum's bare graph to files: what Transformers.js and WebGPU ask of a graph, and its weights.

The 4-bit weights are written by the streaming recipe's writer (`shared.olive.graph.weights`): its
bytes are those of onnxruntime's MatMulNBits quantiser (the tests hold them together), but it holds one
weight at a time and stores a tied table once, read by GatherBlockQuantized and MatMulNBits.
"""

from pathlib import Path

import numpy as np
import onnx
from mobius import ModelPackage
from onnx import helper, numpy_helper

from shared.base.errors import RungFailed
from shared.olive.graph.external_data import ExternalDataWriter
from shared.olive.graph.mobius import BareGraph, StateDict
from shared.olive.graph.weights import TORCH_TYPES
from shared.source.weights import forget_pages

TOTAL = "total_sequence_length"
DIMENSIONS = {"past_sequence_length + sequence_length": TOTAL}
"""Optimum's names → those that Transformers.js knows; it takes any other for 0."""

MASKED = -10_000.0
"""For a place that must not be seen, in float16: its lowest number overflows when a score is added."""


def read_bare_graph(file: Path, weights: StateDict) -> BareGraph:
    """The graph of export.py, made fit for the browser; RungFailed where `weights` do not suit it."""
    proto = onnx.load(str(file), load_external_data=False)
    graph = proto.graph
    given = [value for value in graph.input if value.name not in _interface(graph)]
    check_weights({v.name: _shape(v) for v in given}, weights)
    for value in given:
        graph.input.remove(value)
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = DIMENSIONS.get(dimension.dim_param, dimension.dim_param)
    nodes = [new for node in graph.node for new in _portable(node)]
    del graph.node[:]
    graph.node.extend(nodes)
    _strip(proto)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return BareGraph(proto, lambda state: state, ModelPackage({}))


def write_full(graph: BareGraph, weights: StateDict, file: Path) -> None:
    """Write the graph with its weights as they are, in its own float type, one after the other."""
    made = {name for node in graph.proto.graph.node for name in node.output}
    read = {name for node in graph.proto.graph.node for name in node.input if name}
    kind = TORCH_TYPES[graph.proto.graph.output[0].type.tensor_type.elem_type]
    with ExternalDataWriter(file) as data:
        for name in sorted(read - made - _interface(graph.proto.graph)):
            graph.proto.graph.initializer.append(data.add(name, weights[name].to(kind)))
            forget_pages(weights[name])
    onnx.save_model(graph.proto, str(file))


def _interface(graph: onnx.GraphProto) -> set[str]:
    """The inputs that a runtime gives."""
    ours = ("input_ids", "attention_mask", "position_ids", "past_key_values.")
    return {value.name for value in graph.input if value.name.startswith(ours)}


def check_weights(wanted: dict[str, list[int]], weights: StateDict) -> None:
    """Every weight that the graph reads is there in its shape, and none is left over."""
    for name, shape in wanted.items():
        if name not in weights:
            raise RungFailed(f"the weights have no tensor {name!r}, which the graph needs")
        if list(weights[name].shape) != shape:
            found = list(weights[name].shape)
            raise RungFailed(f"{name}: has shape {found}, config.json asks for {shape}")
    # A tied head may be stored all the same; angles were stored by old versions.
    left = [n for n in weights if n not in wanted and not n.endswith("rotary_emb.inv_freq")]
    if left and left != ["lm_head.weight"]:
        raise RungFailed(f"{left[0]}: Optimum's graph does not read this weight")


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _portable(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The node in operators that WebGPU has, with masks that float16 can add to."""
    if node.op_type == "And":
        return _and(node)
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        _soften(node.attribute[0].t)
    return [node]


def _and(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """There is no And on WebGPU: the product of two integers, which are 0 or 1."""
    integers = [f"{node.output[0]}/{side}" for side in ("left", "right")]
    casts = [
        helper.make_node("Cast", [name], [integer], integer, to=onnx.TensorProto.INT32)
        for name, integer in zip(node.input, integers, strict=True)
    ]
    product = f"{node.output[0]}/product"
    return [
        *casts,
        helper.make_node("Mul", integers, [product], product),
        helper.make_node("Cast", [product], node.output, node.name, to=onnx.TensorProto.BOOL),
    ]


def _soften(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT16 and not tensor.dims:
        value = numpy_helper.to_array(tensor)
        if value == np.finfo(np.float16).min:
            tensor.CopyFrom(numpy_helper.from_array(np.array(MASKED, np.float16), tensor.name))


def _strip(proto: onnx.ModelProto) -> None:
    """Remove metadata (it names this machine) and types that a later step would have to keep."""
    for node in proto.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    proto.graph.name = "decoder"
    proto.ClearField("doc_string")
    proto.graph.ClearField("doc_string")
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
