"""Rules on the weights: their sizes; packed bytes, scales and zero points that fit each other; the
tied table stored once.

    MatMulNBits           B [N, K/block, block·bits/8]   scales [N, K/block]   (onnxruntime's
    GatherBlockQuantized  data [rows, K·bits/8]          scales [rows, K/block] ContribOperators.md)
"""

import hashlib
import math
import mmap
from collections import defaultdict
from collections.abc import Iterator, Sequence

import onnx

from shared.olive.lint.files import MAX_BYTES, Opened, Problem, byte_length, is_external, piece_of

STEP = 1 << 24
INLINE_LIMIT = 1 << 20
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def initializer_size(opened: Opened) -> Iterator[Problem]:
    for tensor in opened.tensors:
        if byte_length(tensor) > MAX_BYTES:
            yield tensor.name, f"has {byte_length(tensor)} bytes; the limit is {MAX_BYTES}"


def inline_size(opened: Opened) -> Iterator[Problem]:
    """Bytes inside the graph are parsed and copied on the CPU before any of them is used."""
    for tensor in opened.tensors:
        if not is_external(tensor) and byte_length(tensor) > INLINE_LIMIT:
            yield tensor.name, f"{byte_length(tensor)} bytes lie inside the graph, not beside it"


def quantized_shape(opened: Opened) -> Iterator[Problem]:
    """onnxruntime checks this only when the node first runs, on the user's machine."""
    for node in opened.nodes:
        if node.op_type == "MatMulNBits":
            yield from _matmul(opened, node)
        elif node.op_type == "GatherBlockQuantized":
            yield from _gather(opened, node)


def tied_table(opened: Opened) -> Iterator[Problem]:
    """One 4-bit table for embedding and head: a second copy is the largest tensor paid for twice."""
    if not opened.config.get("tie_word_embeddings"):
        return
    vocabulary, width = _table_shape(opened)
    yield from _wide_tables(opened, vocabulary, width)
    yield from _twins(opened, vocabulary, width)
    matmuls = _nodes(opened, "MatMulNBits")
    heads = {n.input[1] for n in matmuls if _attributes(n).get("N") == vocabulary}
    lookups = {_root(opened, n.input[0]) for n in _nodes(opened, "GatherBlockQuantized")}
    if len(heads) != 1 or heads != lookups:
        found = f"the head reads {_list(heads)}, the embedding {_list(lookups)}"
        yield opened.name, f"the tied table must be one quantised tensor for both; {found}"


def _matmul(opened: Opened, node: onnx.NodeProto) -> Iterator[Problem]:
    given = _attributes(node)
    bits, block, rows = given.get("bits", 4), given.get("block_size", 0), given.get("N", 0)
    if block < 1:
        yield node.name, "has no block_size"
        return
    blocks = -(-given.get("K", 0) // block)
    yield from _expect(opened, node, 1, [[rows, blocks, block * bits // 8]])
    yield from _expect(opened, node, 2, [[rows, blocks], [rows * blocks]])
    points = -(-blocks * bits // 8)
    yield from _expect(opened, node, 3, [[rows, points], [rows * points], [rows, blocks]])


def _gather(opened: Opened, node: onnx.NodeProto) -> Iterator[Problem]:
    given = _attributes(node)
    bits, block = given.get("bits", 4), given.get("block_size", 128)
    shape = _shape(opened, node.input[0])
    if len(shape) != 2:
        yield node.name, f"its table {node.input[0]} is no initializer of rows and columns"
        return
    table = opened.by_name[_root(opened, node.input[0])]
    in_a_byte = 8 // bits if table.data_type == onnx.TensorProto.UINT8 else 1
    rows, blocks = shape[0], -(-shape[1] * in_a_byte // block)
    yield from _expect(opened, node, 2, [[rows, blocks]])
    yield from _expect(opened, node, 3, [[rows, -(-blocks * bits // 8)], [rows, blocks]])


def _expect(
    opened: Opened, node: onnx.NodeProto, at: int, shapes: Sequence[list[int]]
) -> Iterator[Problem]:
    """The input's shape must be one of `shapes`; an optional input may be left out."""
    if at >= len(node.input) or not node.input[at]:
        return
    name = node.input[at]
    tensor = opened.by_name.get(name)
    if tensor is None:
        yield name, f"{node.op_type} {node.name} needs an initializer here"
    elif list(tensor.dims) not in shapes:
        wanted = "×".join(map(str, shapes[0]))
        found = "×".join(map(str, tensor.dims))
        yield name, f"has shape {found}; {node.op_type} {node.name} needs {wanted}"


def _wide_tables(opened: Opened, vocabulary: int, width: int) -> Iterator[Problem]:
    for tensor in opened.initializers:
        if tensor.data_type in FLOATS and sorted(tensor.dims) == sorted([vocabulary, width]):
            yield tensor.name, f"the tied table lies here unquantised ({byte_length(tensor)} bytes)"


def _twins(opened: Opened, vocabulary: int, width: int) -> Iterator[Problem]:
    """Tensors of the table's size are hashed, and only those, and only if there are two."""
    sizes = {vocabulary * width * bits // 8 for bits in (4, 8, 16, 32)}
    by_size: dict[int, dict[tuple[str, int], onnx.TensorProto]] = defaultdict(dict)
    for tensor in opened.initializers:
        if byte_length(tensor) in sizes:
            by_size[byte_length(tensor)].setdefault(_place(tensor), tensor)
    for group in by_size.values():
        seen: dict[str, str] = {}
        for tensor in group.values() if len(group) > 1 else ():
            first = seen.setdefault(_digest(opened, tensor), tensor.name)
            if first != tensor.name:
                yield tensor.name, f"the tied table is stored twice: the same bytes as {first}"


def _table_shape(opened: Opened) -> tuple[int, int]:
    """Rows and columns of the table, from config.json."""
    return opened.decoder.get("vocab_size") or 0, opened.decoder.get("hidden_size") or 0


def _nodes(opened: Opened, kind: str) -> Iterator[onnx.NodeProto]:
    return (node for node in opened.nodes if node.op_type == kind)


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


def _reshape(opened: Opened, name: str) -> onnx.NodeProto | None:
    return next((n for n in _nodes(opened, "Reshape") if name in n.output), None)


def _root(opened: Opened, name: str) -> str:
    """The initializer behind a Reshape."""
    node = _reshape(opened, name)
    return node.input[0] if node else name


def _shape(opened: Opened, name: str) -> list[int]:
    """The shape of an initializer, or of one that is reshaped; [] for anything else."""
    table, node = opened.by_name.get(_root(opened, name)), _reshape(opened, name)
    if table is None or node is None:
        return list(table.dims) if table else []
    wanted = opened.by_name.get(node.input[1]) or _constant(opened, node.input[1])
    if wanted is None or is_external(wanted):
        return []
    count, sizes = math.prod(table.dims), [int(n) for n in onnx.numpy_helper.to_array(wanted)]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // max(1, -math.prod(sizes))
    return sizes if math.prod(sizes) == count else []


def _constant(opened: Opened, name: str) -> onnx.TensorProto | None:
    """The value of a Constant node, which is where some exporters keep shapes."""
    node = next((n for n in _nodes(opened, "Constant") if name in n.output), None)
    return next((a.t for a in node.attribute if a.HasField("t")), None) if node else None


def _place(tensor: onnx.TensorProto) -> tuple[str, int]:
    """Equal for tensors that are the same bytes of the same file."""
    piece = piece_of(tensor)
    return (piece.file, piece.offset) if is_external(tensor) else (tensor.name, -1)


def _digest(opened: Opened, tensor: onnx.TensorProto) -> str:
    """Hash of a tensor's bytes, which are mapped and not loaded; its name where they are missing."""
    if not is_external(tensor):
        return hashlib.blake2b(onnx.numpy_helper.to_array(tensor).tobytes()).hexdigest()
    piece = piece_of(tensor)
    if piece.offset < 0 or piece.end > opened.chunks.get(piece.file, 0):
        return tensor.name
    digest = hashlib.blake2b()
    with (
        (opened.folder / piece.file).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        for start in range(piece.offset, piece.end, STEP):
            digest.update(mapped[start : min(start + STEP, piece.end)])
    return digest.hexdigest()


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
