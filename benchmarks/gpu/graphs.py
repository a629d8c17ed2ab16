"""The graphs that are carried: with an architecture's shapes alone, or with a real model's weights.

A graph without weights names the places of its data in a file that is not there; `tensors.json` beside
it tells benchmarks/gpu/weights.py how to make one.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks.full_size import ARCHITECTURES, BLOCK_SIZE, SPECIAL, calibration_texts
from benchmarks.gpu.variants import Format, FormatQuantizer
from benchmarks.gpu.weights import DATA, EXACT, GRAPH, TENSORS
from shared.base.parsing import read_json
from shared.domain.domain import domain_names
from shared.evaluate.models.onnx import set_exact
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.external_data import ALIGNMENT, ONNX_TYPES, ExternalDataWriter, TensorSink
from shared.olive.graph.mobius import StateDict
from shared.olive.graph.shapes import GRAPH_TYPES, meta_weights
from shared.olive.graph.weights import Int4Options, Rewriter
from shared.olive.lint.files import byte_length
from shared.source.embedded import PACKAGE, embedded_model
from shared.source.model import model_weights

EMBEDDED = "embedded"
MODELS = (*ARCHITECTURES, EMBEDDED)
CONTEXT = 4096
"""Positions of the rotary tables, which travel inside the graph; more than is measured."""
IDS = 512
"""Tokens of text that are carried: the longest prompt."""
DEVIATION = 0.02
"""Standard deviation of a random weight, transformers' own; full_size.py has the same."""


def write_model(model: str, folder: Path, dtype: str, form: Format) -> None:
    """Graph, exact graph and tensors.json into `folder`; data too where the model is a real one.

    RungFailed naming the tensor whose rows are not a multiple of the format's block size.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = _source(model, Path(temporary))
        if model == EMBEDDED:
            with ExternalDataWriter(folder / GRAPH) as data:
                proto = _rewritten(source, model_weights(source), data, dtype, form, model)
        else:
            planned = PlannedData(form.block_size or BLOCK_SIZE[model])
            proto = _rewritten(source, meta_weights(source), planned, dtype, form, model)
            (folder / TENSORS).write_text(json.dumps(planned.tensors))
    onnx.save_model(proto, str(folder / GRAPH))
    onnx.save_model(set_exact(proto), str(folder / EXACT))


def _source(model: str, temporary: Path) -> Path:
    """The model's folder: the embedded one's own, or one with config.json alone."""
    if model == EMBEDDED:
        return embedded_model(PACKAGE)
    kind, settings = ARCHITECTURES[model]
    kind(**settings | {"max_position_embeddings": CONTEXT}, **SPECIAL).save_pretrained(temporary)
    return temporary


def _rewritten(
    source: Path, weights: StateDict, data: TensorSink, dtype: str, form: Format, model: str
) -> onnx.ModelProto:
    size = form.block_size or BLOCK_SIZE.get(model, Int4Options.block_size)
    graph = build_graph(source, GRAPH_TYPES[dtype])
    rewriter = Rewriter(graph, weights, data, Int4Options(block_size=size))
    tied = read_json(source / "config.json").get("tie_word_embeddings", True)
    rewriter.quantizer = FormatQuantizer(size, form, tied)
    for _ in rewriter.steps():
        pass
    return graph.proto


class PlannedData:
    """Gives tensors without memory their places in a data file that is made elsewhere; what is really
    there (rotary tables) stays inside the graph."""

    def __init__(self, block_size: int) -> None:
        self.tensors: list[dict[str, Any]] = []
        self._block_size, self._end, self._bits = block_size, 0, 4

    def add(self, name: str, tensor: torch.Tensor) -> onnx.TensorProto:
        if not tensor.is_meta:
            return onnx.numpy_helper.from_array(tensor.numpy(), name)
        proto = onnx.TensorProto(name=name, data_type=ONNX_TYPES[tensor.dtype], dims=tensor.shape)
        offset = self._end + -self._end % ALIGNMENT
        length = byte_length(proto)
        self._end = offset + length
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": DATA, "offset": offset, "length": length}.items():
            proto.external_data.add(key=key, value=str(value))
        kind = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type).name
        place = {"name": name, "type": kind, "offset": offset, "length": length}
        self.tensors.append(place | self._content(name, tensor))
        return proto

    def _content(self, name: str, tensor: torch.Tensor) -> dict[str, Any]:
        """What weights.py draws: codes or zero points of so many bits, scales of that size, ones, or
        normally distributed values."""
        if name.endswith("_q4"):
            self._bits = 8 * tensor.shape[2] // self._block_size
            return {"content": "codes", "bits": self._bits}
        if name.endswith("_scales"):
            return {"content": "scales", "size": DEVIATION / code_deviation(self._bits)}
        if name.endswith("_zeros"):
            return {"content": "zeros", "bits": self._bits}
        return {"content": "ones"} if "norm" in name else {"content": "normal", "size": DEVIATION}


def code_deviation(bits: int) -> float:
    """Standard deviation of the codes that weights.py draws: all alike, but the middle one for 0."""
    return math.sqrt(2 * sum(k * k for k in range(1, 2 ** (bits - 1))) / 2**bits)


def token_ids(model: str) -> list[int]:
    """IDS token ids of a domain's calibration text; of a random model's vocabulary, any will do."""
    vocabulary = ARCHITECTURES[model][1]["vocab_size"] if model in ARCHITECTURES else 2**31
    ids = [i for text in calibration_texts(domain_names()[0], vocabulary) for i in text]
    return (ids * -(-IDS // len(ids)))[:IDS]
