"""Fill a bare graph with weights, quantising each as it is read: at no time are two copies held.

What Mobius leaves:  Gather(embed, ids) · MatMul(x, Transpose([Concat](weights)))
What is written:     GatherBlockQuantized · MatMulNBits, the tied embedding's bytes stored once.
Hugging Face linear weights are [out, in] = [N, K], which is MatMulNBits's own order: nothing is
transposed. All other weights are stored in the graph's float type. What an Olive pass has quantised
already (`shared.olive.quantise.checkpoint`) is written as it is, each module with its own bits and
blocks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper

from shared.base.errors import RungFailed
from shared.olive.graph.external_data import ExternalDataWriter, TensorSink
from shared.olive.graph.mobius import BareGraph, StateDict
from shared.olive.quantise.checkpoint import Checkpoint, is_ticket
from shared.olive.quantise.nearest import quantize
from shared.olive.quantise.packing import Blocks, Layout
from shared.source.merging import address, merged
from shared.source.weights import forget_pages

TORCH_TYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}


@dataclass(frozen=True)
class Int4Options:
    """How to quantise: values per block, MatMulNBits's accuracy_level (4 = int8 activations), and
    whether the embedding table is quantised too (a tied head always is).

    `quantize=False` writes the weights in the graph's float type: the reference that tells errors
    of the graph from errors of quantisation.
    """

    block_size: int = 32
    accuracy_level: int = 4
    quantize_embedding: bool = True
    quantize: bool = True


def write_int4(
    graph: BareGraph,
    weights: StateDict | Checkpoint,
    onnx_file: Path,
    options: Int4Options,
    on_weight: Callable[[str], None] = lambda name: None,
) -> list[Path]:
    """Write `onnx_file` and its external data; return the data files.

    Raises RungFailed naming the tensor where a weight is missing, misshapen or not finite.
    """
    return write_together({onnx_file: graph}, weights, options, on_weight)


def write_together(
    graphs: Mapping[Path, BareGraph],
    weights: StateDict | Checkpoint,
    options: Int4Options,
    on_weight: Callable[[str], None] = lambda name: None,
) -> list[Path]:
    """The same for several numeric types of one model, in one pass over its weights.

    The 4-bit codes do not depend on the graph's float type: each weight is read and quantised once
    and written to every file. The graphs are walked in step; where one had a node more, a weight
    would be quantised again, with the same bytes.
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else None
    state = weights.state if isinstance(weights, Checkpoint) else weights
    quantizer = Quantizer(options.block_size, checkpoint)
    with ExitStack() as files:
        data = [files.enter_context(ExternalDataWriter(path)) for path in graphs]
        rewriters = [
            Rewriter(graph, state, sink, options)
            for graph, sink in zip(graphs.values(), data, strict=True)
        ]
        for rewriter in rewriters:
            rewriter.quantizer = quantizer
        rewriters[0].on_weight = on_weight
        for _ in zip_longest(*(rewriter.steps() for rewriter in rewriters)):
            pass
    for path, graph in graphs.items():
        onnx.save_model(graph.proto, str(path))
    return [chunk for writer in data for chunk in writer.chunks]


def quantizable(graph: BareGraph, options: Int4Options) -> int:
    """How many times `write_int4` will report through `on_weight`."""
    heads = sum(n.op_type == "MatMul" for n in graph.proto.graph.node)
    return heads + options.quantize_embedding


class Quantizer:
    """Quantises, and keeps the last result: the next graph asks for the same weight."""

    def __init__(self, block_size: int, checkpoint: Checkpoint | None = None) -> None:
        self.block_size = block_size
        self._checkpoint = checkpoint
        self._last: tuple[str, Blocks] | None = None

    def __call__(self, stem: str, weight: Callable[[], torch.Tensor]) -> Blocks:
        """The codes of the weight named `stem`; RungFailed naming it."""
        if self._last is None or self._last[0] != stem:
            self._last = None  # at no time are two weights' codes held
            try:
                self._last = (stem, self._blocks(weight()))
            except ValueError as error:
                raise RungFailed(f"{stem}: {error}") from error
        return self._last[1]

    def _blocks(self, weight: torch.Tensor) -> Blocks:
        if self._checkpoint and is_ticket(weight):
            return self._checkpoint.blocks(weight)
        packed, scales = quantize(merged(weight), self.block_size)
        return Blocks(4, self.block_size, packed, scales)

    def forget(self, weight: torch.Tensor) -> None:
        """The pages of a weight that was written may go."""
        if self._checkpoint and is_ticket(weight):
            self._checkpoint.forget(weight)
        else:
            forget_pages(weight)


class Rewriter:
    """One pass over the nodes, in order: constant subgraphs are folded, MatMul and Gather replaced."""

    def __init__(
        self,
        graph: BareGraph,
        weights: StateDict,
        data: TensorSink,
        options: Int4Options,
    ) -> None:
        self.g = graph.proto.graph
        self.weights = graph.rename(dict(weights))
        self.data, self.options = data, options
        self.on_weight: Callable[[str], None] = lambda name: None
        self.quantizer = Quantizer(options.block_size)
        self.float_type = TORCH_TYPES[self.g.output[0].type.tensor_type.elem_type]
        self.constants: dict[str, onnx.NodeProto] = {}
        self.done = {tensor.name for tensor in self.g.initializer}
        self.stems: dict[tuple[int, torch.Size], str] = {}
        self.layouts: dict[str, Layout] = {}

    def steps(self) -> Iterator[None]:
        """One step a node."""
        nodes = list(self.g.node)
        made = {output for node in nodes for output in node.output}
        self.free = (
            {name for node in nodes for name in node.input if name and name not in made}
            - {i.name for i in self.g.input}
            - self.done
        )
        self._externalise_large_constants()
        del self.g.node[:]
        for node in nodes:
            self._one(node)
            yield

    def _one(self, node: onnx.NodeProto) -> None:
        if node.op_type in ("Transpose", "Concat") and all(map(self._constant, node.input)):
            self.constants[node.output[0]] = node
        elif self._is_linear(node):
            self._matmul(node)
        elif self._is_table_lookup(node):
            self._embedding(node)
        else:
            for name in node.input:
                if self._constant(name):
                    self._store(name, self._finite(name))
            self.g.node.append(node)

    def _finite(self, name: str) -> torch.Tensor:
        """What is not quantised, in the graph's type; RungFailed where a value is none there."""
        value = self._value(name).to(self.float_type)
        if not value.is_meta and not value.isfinite().all():
            raise RungFailed(
                f"{name}: holds values that are no finite numbers in {self.float_type}"
            )
        return value

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        quantized = self.options.quantize and node.op_type == "MatMul"
        return quantized and self._constant(node.input[1])

    def _is_table_lookup(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Gather" or node.input[0] not in self.free or not self.options.quantize:
            return False
        return self.options.quantize_embedding or is_ticket(self._value(node.input[0]))

    def _constant(self, name: str) -> bool:
        return name in self.free or name in self.constants

    def _value(self, name: str) -> torch.Tensor:
        """The tensor behind `name`, folding the Concat and Transpose nodes on the way."""
        if name in self.constants:
            node = self.constants[name]
            parts = [self._value(i) for i in node.input]
            return parts[0].T if node.op_type == "Transpose" else torch.cat(parts)
        if name not in self.weights:
            raise RungFailed(f"the weights have no tensor {name!r}, which the graph needs")
        return self.weights[name]

    def _matmul(self, node: onnx.NodeProto) -> None:
        """MatMul(x, Wᵀ) → MatMulNBits(x, packed W, scales)."""
        transpose = self.constants[node.input[1]]
        if transpose.op_type != "Transpose":
            raise RungFailed(
                f"{node.name}: expected a transposed weight, found {transpose.op_type}"
            )
        stem = self._quantized(transpose.input[0])
        layout = self.layouts[stem]
        level = self.options.accuracy_level
        inputs = [node.input[0], f"{stem}_q4", f"{stem}_scales"]
        sizes: dict[str, Any] = {"K": layout.columns, "N": layout.rows, "accuracy_level": level}
        self._reads_blocks("MatMulNBits", node, inputs, stem, sizes)

    def _embedding(self, node: onnx.NodeProto) -> None:
        """Gather(table, ids) → GatherBlockQuantized over the bytes that a tied head also reads."""
        stem = self._quantized(node.input[0])
        layout = self.layouts[stem]
        table = [layout.rows, layout.columns * layout.bits // 8]
        shape = helper.make_tensor(f"{stem}_shape", onnx.TensorProto.INT64, [2], table)
        self.g.initializer.append(shape)
        self.g.node.append(
            helper.make_node(
                "Reshape", [f"{stem}_q4", shape.name], [f"{stem}_2d"], name=f"{node.name}/table"
            )
        )
        inputs = [f"{stem}_2d", node.input[1], f"{stem}_scales"]
        axes: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1}
        self._reads_blocks("GatherBlockQuantized", node, inputs, stem, axes)

    def _reads_blocks(
        self, kind: str, node: onnx.NodeProto, inputs: list[str], stem: str, more: dict[str, Any]
    ) -> None:
        """Put the node of that kind, which reads the quantised weight, in the place of `node`."""
        layout = self.layouts[stem]
        self.g.node.append(
            helper.make_node(
                kind,
                [*inputs, f"{stem}_zeros"] if layout.has_zeros else inputs,
                list(node.output),
                name=node.name,
                domain="com.microsoft",
                bits=layout.bits,
                block_size=layout.block_size,
                **more,
            )
        )

    def _quantized(self, name: str) -> str:
        """Quantise and store the weight once; the stem under which its tensors lie."""
        stem = self._stem(name)
        if name not in self.constants:  # a folded weight's memory may be another's next time
            stem = self.stems.setdefault(_identity(self._value(name)), stem)
        self.on_weight(stem)
        if stem not in self.layouts:
            blocks = self.quantizer(stem, lambda: self._value(name))
            self._store(f"{stem}_q4", blocks.packed)
            self._store(f"{stem}_scales", blocks.scales.to(self.float_type))
            if blocks.zeros is not None:
                self._store(f"{stem}_zeros", blocks.zeros)
            self.layouts[stem] = blocks.layout
            for part in self._parts(name):
                self.quantizer.forget(self.weights[part])
        return stem

    def _parts(self, name: str) -> list[str]:
        """The weights that `name` is folded from; itself, where nothing is folded."""
        return list(self.constants[name].input) if name in self.constants else [name]

    def _stem(self, name: str) -> str:
        """A stable name: the weight's own, or the first part's with `qkv` for a fused one."""
        if name not in self.constants:
            return name
        first = self.constants[name].input[0]
        return first.replace("q_proj", "qkv_proj")

    def _store(self, name: str, tensor: torch.Tensor) -> None:
        if name not in self.done:
            self.done.add(name)
            self.g.initializer.append(self.data.add(name, tensor))

    def _externalise_large_constants(self) -> None:
        """Rotary caches come inside the bare graph; megabytes belong beside it."""
        for tensor in list(self.g.initializer):
            if len(tensor.raw_data) > 1024:
                array = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
                tensor.CopyFrom(self.data.add(tensor.name, array))


def _identity(weight: torch.Tensor) -> tuple[int, torch.Size]:
    """Two names for the same bytes (a tied head) are one weight."""
    if weight.is_meta:  # a plan has no bytes, but a tied weight is still one storage
        return weight.untyped_storage()._cdata, weight.shape
    return address(weight), weight.shape
