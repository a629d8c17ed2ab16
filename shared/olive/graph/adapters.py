"""LoRA adapters beside a 4-bit graph: behind each product that they change, y + B · (A · x).

>>> found = products(graph)
>>> tensors = adapter_tensors(found, adapter, needed_ranks(found, [adapter], "int8"), "int8")
>>> attach(graph, tensors, writer)  # as initializers, in a data file after the base's own
>>> attach(graph, tensors)          # as inputs of the graph, for whoever gives them

The base's bytes stay as they are. A product has one A [rank, in] and one B [out, rank]: where q, k and
v are one product, so are their A; their B lie on a diagonal, which costs bytes and saves kernels. Gate
and up have an A each: one for both would have to be split again. Scaling is in B. "f16": two Gemm a
product; "int8" and "int4": two MatMulNBits with accuracy level 1, and an Add.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
import torch
from onnx import helper

from shared.base import paths
from shared.base.errors import RungFailed
from shared.domain.settings import Precision
from shared.olive.graph.external_data import ONNX_TYPES, TensorSink
from shared.olive.quantise.nearest import quantize
from shared.source.adapter import WEIGHTS, Adapter, shown_tensor

BITS: dict[Precision, int] = {"int8": 8, "int4": 4}

RANK_BLOCK = 16
"""Ranks of quantised adapters are multiples of it: MatMulNBits's smallest block."""

CODES = "_q4"
"""How the name of a product's 4-bit codes ends (shared.olive.graph.weights)."""

SHAPE = "lora.shape"

RENAMED = {
    "c_fc": "up_proj",
    "c_proj": "down_proj",  # starcoder2
    "dense": "o_proj",
    "fc1": "up_proj",
    "fc2": "down_proj",  # phi
}
"""Modules that Mobius's graph has under another name."""


@dataclass(frozen=True)
class Product:
    """A MatMulNBits of a graph: its size, and which of its rows belong to which module of the model."""

    stem: str
    source: str
    output: str
    columns: int
    size: int
    block_size: int
    rows: dict[str, range]


def products(model: onnx.ModelProto) -> dict[str, Product]:
    """Stem → product, for every MatMulNBits over weights of the model's own names."""
    widths = {value.name: _width(value) for value in model.graph.input}
    found: dict[str, Product] = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and node.input[1].endswith(f".weight{CODES}"):
            stem = node.input[1].removesuffix(f".weight{CODES}")
            given = {a.name: a.i for a in node.attribute}
            rows = {stem: range(given["N"])} | _fused(stem, given["N"], widths)
            sizes = (given["K"], given["N"], given["block_size"])
            found[stem] = Product(stem, node.input[0], node.output[0], *sizes, rows)
    return found


def _width(value: onnx.ValueInfoProto) -> int:
    """Heads times values a head of a cache [batch, heads, past, head]; 0 for any other input."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[1].dim_value * dims[3].dim_value) if len(dims) == 4 else 0


def _fused(stem: str, size: int, widths: Mapping[str, int]) -> dict[str, range]:
    """The rows of q, k and v in a product of all three: keys and values are as wide as the cache."""
    layer = re.search(r"\.layers\.(\d+)\.", stem)
    if not stem.endswith(".qkv_proj") or not layer:
        return {}
    keys, values = (widths[f"past_key_values.{layer[1]}.{half}"] for half in ("key", "value"))
    ends = (0, size - keys - values, size - values, size)
    at = stem.removesuffix("qkv_proj")
    return {f"{at}{n}_proj": range(ends[i], ends[i + 1]) for i, n in enumerate("qkv")}


def needed_ranks(
    found: Mapping[str, Product], adapters: Iterable[Adapter], precision: Precision
) -> dict[str, int]:
    """Stem → rank, for every product that an adapter changes: the largest of theirs.

    RungFailed naming the tensor where an adapter is for another base.
    """
    ranks: dict[str, int] = {}
    for adapter in adapters:
        own: dict[str, int] = {}
        for module, pair in adapter.pairs.items():
            stem = _product(found, adapter, module).stem
            own[stem] = own.get(stem, 0) + pair.a.shape[0]
        ranks |= {stem: max(rank, ranks.get(stem, 0)) for stem, rank in own.items()}
    step = RANK_BLOCK if precision in BITS else 1
    return {stem: -(-ranks[stem] // step) * step for stem in found if stem in ranks}


def _product(found: Mapping[str, Product], adapter: Adapter, module: str) -> Product:
    told = adapter.pairs[module]
    name = _own_name(found, module)
    product = next((product for product in found.values() if name in product.rows), None)
    if product is None:
        raise RungFailed(
            f"{shown_tensor(adapter.folder, told.a)}: the base's graph has no product for it"
        )
    wanted = (product.columns, len(product.rows[name]))
    if (told.a.shape[1], told.b.shape[0]) != wanted:
        raise RungFailed(
            f"{shown_tensor(adapter.folder, told.a)}: is for {told.a.shape[1]} values and gives "
            f"{told.b.shape[0]}, but the base's takes {wanted[0]} and gives {wanted[1]}; it was "
            "trained on another base"
        )
    return product


def _own_name(found: Mapping[str, Product], module: str) -> str:
    """A module's name as the graph has it, with or without the prefix of the model without its head."""
    names = {name for product in found.values() for name in product.rows}
    head, _, last = module.rpartition(".")
    for own in (module, f"{head}.{RENAMED.get(last, last)}"):
        for name in (own, f"model.{own}", own.removeprefix("model.")):
            if name in names:
                return name
    return module


def adapter_tensors(
    found: Mapping[str, Product], adapter: Adapter, ranks: Mapping[str, int], precision: Precision
) -> dict[str, torch.Tensor]:
    """What an adapter puts into a graph that has places of these ranks, by name; float16 and uint8.

    Products that it does not change get zeros. RungFailed where it does not fit.
    """
    from safetensors.torch import load_file

    halves = load_file(adapter.folder / WEIGHTS)
    pairs = {
        stem: (torch.zeros(rank, found[stem].columns), torch.zeros(found[stem].size, rank))
        for stem, rank in ranks.items()
    }
    used = dict.fromkeys(ranks, 0)
    for module, told in adapter.pairs.items():
        product = _product(found, adapter, module)
        stem, rows = product.stem, product.rows[_own_name(found, module)]
        at = slice(used.get(stem, 0), used.get(stem, 0) + told.a.shape[0])
        if at.stop > ranks.get(stem, 0):
            raise RungFailed(
                f"{shown_tensor(adapter.folder, told.a)}: rank {at.stop}, but the graph has room for "
                f"{ranks.get(stem, 0)}"
            )
        a, b = halves[told.a.name].float(), halves[told.b.name].float() * told.scaling
        gain = _balance(a, b)
        pairs[stem][0][at], pairs[stem][1][rows.start : rows.stop, at] = a / gain, b * gain
        used[stem] = at.stop
    stored: dict[str, torch.Tensor] = {}
    for stem, (a, b) in pairs.items():
        stored |= _stored(f"{stem}.lora_A", a, found[stem].block_size, precision)
        stored |= _stored(f"{stem}.lora_B", b, _rank_block(b.shape[1]), precision)
    if wrong := next((n for n, t in stored.items() if not t.isfinite().all()), None):
        raise RungFailed(
            f"{paths.shown(adapter.folder / WEIGHTS)}: {wrong}: beyond float16's range"
        )
    return stored


def _balance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The power of two that makes A's and B's largest values alike: a trained B is so small that the
    scales of its blocks would leave float16's normal numbers, which a GPU may take for zero."""
    largest = float(a.abs().max()), float(b.abs().max())
    if min(largest) == 0:
        return 1.0
    ratio = torch.tensor(largest[0] / largest[1]).log2() / 2
    return float(2.0 ** ratio.round())


def _rank_block(rank: int) -> int:
    return 2 * RANK_BLOCK if rank % (2 * RANK_BLOCK) == 0 else RANK_BLOCK


def _stored(
    name: str, weight: torch.Tensor, block_size: int, precision: Precision
) -> dict[str, torch.Tensor]:
    if precision not in BITS:
        return {name: weight.to(torch.float16)}
    codes, scales = quantize(weight, block_size, BITS[precision])
    return {f"{name}_codes": codes, f"{name}_scales": scales.to(torch.float16)}


def in_graph_type(model: onnx.ModelProto, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as a graph takes it: what is float16 in a file is float32 in a graph of float32."""
    single = model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    return tensor.float() if single and tensor.is_floating_point() else tensor


def attach(
    model: onnx.ModelProto, tensors: Mapping[str, torch.Tensor], sink: TensorSink | None = None
) -> None:
    """Put products with an adapter's tensors into the graph: with `sink` as initializers, else as
    inputs of their shapes and types."""
    graph, found = model.graph, products(model)
    for name, tensor in tensors.items():
        own = in_graph_type(model, tensor)
        if sink:
            graph.initializer.append(sink.add(name, own))
        else:
            kind, shape = ONNX_TYPES[own.dtype], list(own.shape)
            graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    behind = {
        product.output: beside
        for product in found.values()
        if (beside := _beside(product, tensors, f"{product.output}.base"))
    }
    turned = [p for p in found.values() if f"{p.stem}.lora_A" in tensors]
    nodes = [*_shapes(model, turned), *graph.node]
    del graph.node[:]
    for node in nodes:
        new = behind.get(node.output[0], [])
        if new:
            node.output[0] += ".base"
        graph.node.extend([node, *new])


def _shapes(model: onnx.ModelProto, turned: Iterable[Product]) -> list[onnx.NodeProto]:
    """Gemm takes matrices, which are turned back into [batch, -1, width]: a node for each width.

    The batch is the mask's, whose shape is read on the CPU anyway; the ids lie on the GPU.
    onnxruntime-web 1.31 takes the width for 0 where the graph does not tell it.
    """
    graph, kind = model.graph, model.graph.output[0].type.tensor_type.elem_type
    sizes = {product.output: product.size for product in turned}
    for name, size in sizes.items():
        shape: list[str | int | None] = ["batch_size", "sequence_length", size]
        graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))
    nodes = []
    if sizes:
        nodes.append(helper.make_node("Shape", ["attention_mask"], [SHAPE], name=SHAPE, end=1))
    for size in sorted({*sizes.values()}):
        name, last = f"{SHAPE}.{size}", f"{SHAPE}.{size}.last"
        graph.initializer.append(helper.make_tensor(last, onnx.TensorProto.INT64, [2], [-1, size]))
        nodes.append(helper.make_node("Concat", [SHAPE, last], [name], name=name, axis=0))
    return nodes


def _beside(
    product: Product, tensors: Mapping[str, torch.Tensor], base: str
) -> list[onnx.NodeProto]:
    """The nodes that add the adapter's share to the product's output, which is `base` by now."""
    stem, middle = f"{product.stem}.lora", f"{product.stem}.lora_A_x"
    if f"{stem}_A" in tensors:
        rows, added, both = f"{stem}_x", f"{stem}_y", f"{stem}_z"
        shape = f"{SHAPE}.{product.size}"
        return [
            helper.make_node("Flatten", [product.source], [rows], name=rows, axis=2),
            helper.make_node("Flatten", [base], [added], name=added, axis=2),
            helper.make_node("Gemm", [rows, f"{stem}_A"], [middle], name=middle, transB=1),
            helper.make_node("Gemm", [middle, f"{stem}_B", added], [both], name=both, transB=1),
            helper.make_node("Reshape", [both, shape], [product.output], name=f"{stem}_add"),
        ]
    if f"{stem}_A_codes" not in tensors:
        return []
    share = f"{stem}_B_x"
    return [
        _blocks_product(f"{stem}_A", product.source, middle, tensors, product.columns),
        _blocks_product(f"{stem}_B", middle, share, tensors, tensors[f"{stem}_A_codes"].shape[0]),
        helper.make_node("Add", [base, share], [product.output], name=f"{stem}_add"),
    ]


def _blocks_product(
    name: str, source: str, output: str, tensors: Mapping[str, torch.Tensor], columns: int
) -> onnx.NodeProto:
    rows, blocks, width = tensors[f"{name}_codes"].shape
    return helper.make_node(
        "MatMulNBits",
        [source, f"{name}_codes", f"{name}_scales"],
        [output],
        name=name,
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=width * 8 * blocks // columns,
        block_size=columns // blocks,
        accuracy_level=1,
    )
