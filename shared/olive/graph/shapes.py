"""What int4.py would write for a model whose weights are not here: every tensor's shape, no bytes.

The same rewriting runs on PyTorch's meta tensors, which have shapes and no memory; so the plan of a
3B model takes seconds and is the built graph's, tensor by tensor (tests/test_preflight.py).
"""

from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from transformers import AutoModelForCausalLM

from shared.base.errors import RungFailed
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.external_data import ONNX_TYPES
from shared.olive.graph.mobius import StateDict
from shared.olive.graph.weights import Int4Options, Quantizer, Rewriter
from shared.olive.quantise.packing import Blocks
from shared.source.described import model_config

GRAPH_TYPES = {"q4f16": "f16", "q4": "f32"}


def planned_graph(config: Path, dtype: str, options: Int4Options) -> onnx.ModelProto:
    """The graph for the model of `config` (a folder with config.json), its initializers without
    data; `dtype` is "q4f16" or "q4". Raises RungFailed for an architecture that is not known."""
    graph = build_graph(config, GRAPH_TYPES[dtype])
    rewriter = Rewriter(graph, meta_weights(config), _Shapes(), options)
    rewriter.quantizer = _ShapeQuantizer(options.block_size)
    for _ in rewriter.steps():
        pass
    return graph.proto


def meta_weights(folder: Path) -> StateDict:
    """The state dict of the model of `folder`/config.json: shapes without memory."""
    config = model_config(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, trust_remote_code=False
        )
    return model.state_dict()


class _Shapes:
    """Keeps shapes and types; a number or a list that is really there is kept nowhere either."""

    def add(self, name: str, tensor: torch.Tensor) -> onnx.TensorProto:
        return onnx.TensorProto(name=name, data_type=ONNX_TYPES[tensor.dtype], dims=tensor.shape)


class _ShapeQuantizer(Quantizer):
    """The shapes that quantising gives, without arithmetic."""

    def __call__(self, stem: str, weight: Callable[[], torch.Tensor]) -> Blocks:
        rows, columns = weight().shape
        size = self.block_size
        if columns % size:
            raise RungFailed(f"{stem}: row length {columns} is not a multiple of block size {size}")
        packed = torch.empty(rows, columns // size, size // 2, dtype=torch.uint8, device="meta")
        scales = torch.empty(rows, columns // size, dtype=torch.float32, device="meta")
        return Blocks(4, size, packed, scales)
