"""What the lint reads, and the rules on the files: every byte of external data in its place.

The .onnx is parsed without its data; data files are looked at by size, and compared only where two
tensors may be the same one stored twice.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

MAX_BYTES = 2_000_000_000
"""A file or tensor of this size does not fit into one ArrayBuffer of every browser."""

MAX_CHUNKS = 100
"""MAX_EXTERNAL_DATA_CHUNKS in Transformers.js 4 (src/utils/hub.js)."""

MAX_ALIGNMENT = 65536
"""The largest alignment that writers use: Windows maps files at multiples of 64 KiB."""

HALF_BYTES = (
    onnx.TensorProto.UINT4,
    onnx.TensorProto.INT4,
    onnx.TensorProto.FLOAT4E2M1,
)

Problem = tuple[str, str]
"""Where, and a sentence."""


@dataclass(frozen=True)
class Piece:
    """A tensor's place in an external data file, as the graph records it."""

    tensor: str
    file: str
    offset: int
    length: int
    needed: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True)
class Opened:
    """One graph of a package, with what several rules ask for."""

    folder: Path
    dtype: str
    model: onnx.ModelProto
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return f"model_{self.dtype}.onnx"

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, those of subgraphs included."""
        return [node for graph in _graphs(self.model.graph) for node in graph.node]

    @cached_property
    def initializers(self) -> list[onnx.TensorProto]:
        return [tensor for graph in _graphs(self.model.graph) for tensor in graph.initializer]

    @cached_property
    def tensors(self) -> list[onnx.TensorProto]:
        """Initializers and the values of Constant nodes: whatever holds bytes."""
        values = [a.t for node in self.nodes for a in node.attribute if a.HasField("t")]
        return self.initializers + values

    @cached_property
    def by_name(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.initializers}

    @cached_property
    def pieces(self) -> list[Piece]:
        return [piece_of(tensor) for tensor in self.tensors if is_external(tensor)]

    @cached_property
    def chunks(self) -> dict[str, int]:
        """The data files that lie beside the graph, by name, with their sizes."""
        beside = sorted(self.folder.glob(f"{self.name}_data*"))
        return {path.name: path.stat().st_size for path in beside if _plain(path)}

    @cached_property
    def decoder(self) -> dict[str, Any]:
        """The part of config.json with the language model's sizes."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config


def byte_length(tensor: onnx.TensorProto) -> int:
    """The bytes a tensor of this type and shape takes, wherever they are; 0 for an unknown type."""
    count = math.prod(tensor.dims)
    if tensor.data_type in HALF_BYTES:
        return (count + 1) // 2
    try:
        return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        return 0


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def data_missing(opened: Opened) -> Iterator[Problem]:
    """Every data file the graph names must lie beside it, as a file of its own."""
    for file in sorted({piece.file for piece in opened.pieces if _expected(opened, piece.file)}):
        if file not in opened.chunks:
            yield file, "the graph reads this data file, which is not there as a regular file"


def data_name(opened: Opened) -> Iterator[Problem]:
    """The recorded name is the key under which Transformers.js hands the bytes to onnxruntime."""
    for file in sorted({piece.file for piece in opened.pieces}):
        if not _expected(opened, file):
            yield (
                opened.name,
                f"reads its data from {file!r}; expected {opened.name}_data, {opened.name}_data_1, …",
            )


def data_range(opened: Opened) -> Iterator[Problem]:
    """A tensor that reaches past its file's end is a file cut short; a wrong length, a wrong shape."""
    for piece in opened.pieces:
        size = opened.chunks.get(piece.file)
        if piece.offset < 0 or piece.length < 0:
            yield piece.tensor, "records no offset and length that are numbers"
        elif piece.length != piece.needed:
            yield piece.tensor, f"records {piece.length} bytes; its shape takes {piece.needed}"
        elif size is not None and piece.end > size:
            yield (
                piece.tensor,
                f"ends at byte {piece.end} of {piece.file}, which has only {size} bytes",
            )


def data_overlap(opened: Opened) -> Iterator[Problem]:
    """Two tensors may be the same bytes, but not share some of them."""
    for first, second in _neighbours(opened):
        if second.offset < first.end and second.length:
            yield second.tensor, f"shares bytes of {second.file} with {first.tensor}"


def data_lost(opened: Opened) -> Iterator[Problem]:
    """Bytes that no tensor reads are downloaded for nothing, but for the padding of an alignment."""
    for file, size in opened.chunks.items():
        places = [(p.offset, p.end) for p in _in_order(opened) if p.file == file]
        end = 0
        for start, stop in (*places, (size, size)):
            lost = start - end
            if lost > 0 and (end == 0 or lost >= min(start & -start, MAX_ALIGNMENT)):
                yield file, f"no tensor reads the {lost} bytes from {end} to {start}"
            end = max(end, stop)


def chunk_size(opened: Opened) -> Iterator[Problem]:
    for file, size in opened.chunks.items():
        if size >= MAX_BYTES:
            yield file, f"has {size} bytes; a browser reads fewer than {MAX_BYTES} into one buffer"


def chunk_count(opened: Opened) -> Iterator[Problem]:
    """Transformers.js fetches as many chunks as config.json says, under names it counts up itself."""
    present = sorted({*opened.chunks, *(p.file for p in opened.pieces)})
    expected = [f"{opened.name}_data" + (f"_{i}" if i else "") for i in range(len(present))]
    if present != sorted(expected):
        yield opened.name, f"the data files are {', '.join(present)}, which is not a series"
    if len(present) > MAX_CHUNKS:
        yield opened.name, f"has {len(present)} data files; Transformers.js reads {MAX_CHUNKS}"
    stated = _stated_chunks(opened)
    if stated != len(present):
        yield (
            "config.json",
            f"transformers.js_config.use_external_data_format gives {opened.name} {stated} data "
            f"files; there are {len(present)}",
        )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graphs(inner)


def piece_of(tensor: onnx.TensorProto) -> Piece:
    """Where an external tensor says that its bytes are; −1 for a number that is none."""
    recorded = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = (_number(recorded.get(key, "")) for key in ("offset", "length"))
    file = recorded.get("location", "")
    needed = byte_length(tensor)
    return Piece(tensor.name, file, 0 if "offset" not in recorded else offset, length, needed)


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]+", text) else -1


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _expected(opened: Opened, file: str) -> bool:
    return bool(re.fullmatch(re.escape(opened.name) + r"_data(_[1-9][0-9]*)?", file))


def _in_order(opened: Opened) -> list[Piece]:
    """Each place once: tensors with the same bytes are one."""
    places = {(p.file, p.offset, p.length): p for p in reversed(opened.pieces) if p.offset >= 0}
    return [places[key] for key in sorted(places)]


def _neighbours(opened: Opened) -> Iterator[tuple[Piece, Piece]]:
    return ((a, b) for a, b in pairwise(_in_order(opened)) if a.file == b.file)


def _stated_chunks(opened: Opened) -> int:
    """As Transformers.js resolves it: a number for all graphs, or one for each by file name."""
    stated = (opened.config.get("transformers.js_config") or {}).get("use_external_data_format")
    if isinstance(stated, dict):
        stated = stated.get(opened.name, stated.get("model"))
    return int(stated) if isinstance(stated, int) else 0
