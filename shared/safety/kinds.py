"""The kinds of file that a release is made of, each by its content; all others are refused.

>>> need_known(Path("models/legal/webgpu"), ["config.json", "onnx/model_q4.onnx"])
"""

import re
from collections.abc import Iterable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

from shared.base import paths
from shared.base.errors import UserError
from shared.base.parsing import LARGEST_TEXT

LARGEST_HEADER = 25_000_000
"""Bytes of a safetensors header. A 3B model's has some 50 kB; the format itself allows 100 MB."""
IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
IR_VERSION, GRAPH = 1 << 3, 7 << 3 | 2
MODEL_TAGS = {n << 3 for n in (1, 5)} | {n << 3 | 2 for n in (2, 3, 4, 6, 7, 8, 14, 20, 25, 26)}
"""The fields of an ONNX ModelProto as protobuf tags them: two numbers, the rest with a length."""
DATA = re.compile(r"(.+\.onnx)_data(?:_\d+)?")
ENOUGH = 512


def need_known(folder: Path, names: Iterable[str]) -> None:
    """UserError at the first file that is of none of the kinds that a release is made of."""
    for name in names:
        if not is_known(folder / name):
            raise UserError(
                f"{paths.shown(folder / name)}: is neither UTF-8 text, safetensors, an ONNX graph, "
                "the data that a graph beside it names, an adapter, nor an image; remove it from the "
                "folder"
            )


def is_known(path: Path) -> bool:
    """Whether a file is one of them, by what it holds; a graph's data by the graph beside it."""
    with path.open("rb") as file:
        start = file.read(ENOUGH)
    if is_safetensors(start, path.stat().st_size) or is_image(start):
        return True
    return is_text(path) or is_graph(path) or _is_named_data(path) or is_adapter(path)


def is_text(path: Path) -> bool:
    """UTF-8 without NUL, of a text's size; read to its end."""
    if path.stat().st_size > LARGEST_TEXT:
        return False
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def is_safetensors(start: bytes, size: int) -> bool:
    """A header that fits into the file and begins as JSON. No pickle does: `{` is no opcode."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and length <= min(LARGEST_HEADER, size - 8)


def is_image(start: bytes) -> bool:
    return start.startswith(IMAGES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def is_graph(path: Path) -> bool:
    """An ONNX ModelProto: only its fields, to the last byte, a version and a graph among them."""
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as file:
        try:
            while file.tell() < size:
                tag = _varint(file)
                seen.add(tag)
                length = _varint(file) if tag & 7 == 2 else 0
                if tag not in MODEL_TAGS or file.tell() + length > size:
                    return False
                _ = file.seek(length, 1) if tag & 7 == 2 else _varint(file)
        except EOFError:
            return False
    return {IR_VERSION, GRAPH} <= seen


def is_adapter(path: Path) -> bool:
    """onnxruntime's own format of an adapter: a flatbuffer of that kind whose root lies inside."""
    if path.suffix != ".onnx_adapter":
        return False
    with path.open("rb") as file:
        start = file.read(8)
    return start[4:] == b"TORT" and 8 <= int.from_bytes(start[:4], "little") < path.stat().st_size


def _varint(file: BinaryIO) -> int:
    """protobuf's integer of seven bits a byte; EOFError where it does not end."""
    value = 0
    for shift in range(0, 70, 7):
        if not (byte := file.read(1)):
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise EOFError


def _is_named_data(path: Path) -> bool:
    """Whether it is `<graph>_data` or `<graph>_data_1`, and the graph beside it names it."""
    found = DATA.fullmatch(path.name)
    graph = path.with_name(found[1]) if found else None
    if graph is None or not graph.is_file() or not is_graph(graph):
        return False
    with graph.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(path.name.encode()) >= 0
