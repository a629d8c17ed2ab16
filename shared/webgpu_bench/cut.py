"""A packaged graph cut at layer boundaries: small graphs that, chained, compute what the whole does.

>>> [piece.name for piece in cut(read_graph(Path("package/onnx/model_q4.onnx")))]
['embeddings', 'layer 0', 'layer 1', 'head']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper
from onnx.external_data_helper import ExternalDataInfo

from shared.evaluate.activations import LAYER
from shared.evaluate.models.onnx import session_options, set_exact
from shared.webgpu_bench.server import FileRange

ALIGNMENT = 64
DATA = "piece.onnx_data"
"""What a piece's graph calls its data file, which is on no disk."""

Arrays = dict[str, np.ndarray]
"""Tensors by their names in the graph."""


@dataclass(frozen=True)
class Piece:
    """Consecutive nodes of `whole`; `inputs` and `outputs` are what crosses their boundaries."""

    name: str
    nodes: Sequence[NodeProto]
    inputs: list[str]
    outputs: list[str]
    initializers: list[TensorProto]
    whole: onnx.ModelProto

    def model(self, feeds: Mapping[str, np.ndarray]) -> onnx.ModelProto:
        """A graph of its own, whose inputs have the types of `feeds`; its data lie where they lay."""
        inputs = [_input(name, feeds[name]) for name in self.inputs]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)
        versions = {"opset_imports": self.whole.opset_import, "ir_version": self.whole.ir_version}
        return helper.make_model(graph, functions=self.whole.functions, **versions)


def _input(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * value.ndim)


def read_graph(graph: Path) -> onnx.ModelProto:
    """The graph without its data, in float32: activations are not rounded to int8."""
    return set_exact(onnx.load(graph, load_external_data=False))


def cut(model: onnx.ModelProto) -> list[Piece]:
    """The embeddings, each layer with the norm before it, and the head with the last norm."""
    nodes = list(model.graph.node)
    starts = _starts(nodes, {tensor.name for tensor in model.graph.initializer})
    ends = [*[index for index, _ in starts[1:]], len(nodes)]
    ranges = [(name, range(start, end)) for (start, name), end in zip(starts, ends, strict=True)]
    return [_piece(model, nodes, name, part) for name, part in ranges if part]


def _starts(nodes: Sequence[NodeProto], stored: set[str]) -> list[tuple[int, str]]:
    """Where each piece begins: at the first node that names its layer; the head after the last."""
    starts, last, latest = [(0, "embeddings")], 0, -1
    for index, node in enumerate(nodes):
        layer = _layer(node, stored)
        if layer is not None:
            last = index
            if layer > latest:
                starts.append((index, f"layer {layer}"))
                latest = layer
    return [*starts, (last + 1, "head")]


def _layer(node: NodeProto, stored: set[str]) -> int | None:
    """The layer that a node names; a fused node has no name of its own, but its weights have."""
    for name in (node.name, *node.output, *(n for n in node.input if n in stored)):
        if found := LAYER.search(name):
            return int(found[1])
    return None


def _piece(model: onnx.ModelProto, nodes: list[NodeProto], name: str, part: range) -> Piece:
    """Constants are made anew in each piece that reads them: some operators take nothing else."""
    own = [nodes[i] for i in part]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {n.output[0]: n for n in nodes if n.op_type == "Constant"}
    read, made = _read(own), {output for node in own for output in node.output}
    own = [constants[n] for n in read if n in constants and n not in made] + own
    later = set(_read(nodes[part.stop :])) - set(constants)
    given = {output.name for output in model.graph.output}
    outside = [n for n in read if n not in made and n not in constants]
    return Piece(
        name,
        own,
        inputs=[n for n in outside if n not in stored],
        outputs=[o for node in own for o in node.output if o in later or o in given],
        initializers=[stored[n] for n in outside if n in stored],
        whole=model,
    )


def _read(nodes: Sequence[NodeProto]) -> list[str]:
    """What the nodes read, each name once, in order."""
    return list(dict.fromkeys(name for node in nodes for name in node.input if name))


def with_own_data(model: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, list[FileRange]]:
    """The piece with one data file, and the ranges of the files in `folder` that it consists of."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    outside = [t for t in own.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    ranges = [_range(folder, ExternalDataInfo(tensor)) for tensor in outside]
    for tensor, offset, part in zip(outside, _offsets(ranges), ranges, strict=True):
        _point(tensor, {"location": DATA, "offset": offset, "length": part.length})
    return own, ranges


def _range(folder: Path, place: ExternalDataInfo) -> FileRange:
    length = int(place.length or 0)
    return FileRange(folder / place.location, int(place.offset or 0), length, -length % ALIGNMENT)


def _point(tensor: TensorProto, place: Mapping[str, object]) -> None:
    del tensor.external_data[:]
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))


def _offsets(ranges: Sequence[FileRange]) -> Iterator[int]:
    offset = 0
    for part in ranges:
        yield offset
        offset += part.size


def first_feeds(model: onnx.ModelProto, rows: np.ndarray) -> Arrays:
    """The whole graph's inputs for token ids [rows, tokens] and an empty cache."""
    known = {
        "input_ids": rows,
        "attention_mask": np.ones_like(rows),
        "position_ids": np.broadcast_to(np.arange(rows.shape[1]), rows.shape),
    }
    return {i.name: known.get(i.name, _empty_cache(i, len(rows))) for i in model.graph.input}


def _empty_cache(value: onnx.ValueInfoProto, rows: int) -> np.ndarray:
    kind = value.type.tensor_type
    sizes = [d.dim_value for d in kind.shape.dim]
    shape = (rows, *sizes[1:2], 0, *sizes[3:])
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def run_on_cpu(piece: Piece, feeds: Arrays, folder: Path) -> Arrays:
    """The piece's outputs by onnxruntime's CPU; the data files lie in `folder`."""
    session = ort.InferenceSession(
        piece.model(feeds).SerializeToString(),
        session_options(folder),
        providers=["CPUExecutionProvider"],
    )
    return dict(zip(piece.outputs, session.run(piece.outputs, feeds), strict=True))


def chain(pieces: Sequence[Piece], feeds: Arrays, folder: Path) -> Iterator[tuple[Arrays, Arrays]]:
    """Each piece's inputs and outputs on the CPU, where one's outputs are the next one's inputs."""
    known = dict(feeds)
    for index, piece in enumerate(pieces):
        given = {name: known[name] for name in piece.inputs}
        made = run_on_cpu(piece, given, folder)
        yield given, made
        later = {name for other in pieces[index + 1 :] for name in other.inputs}
        known = {name: value for name, value in (known | made).items() if name in later}
