"""Runs where the GPU is, with numpy alone: random weights of the right shapes and scales, in seconds.

$ python -m benchmarks.gpu.weights models/smollm3/q4f16/plain

Codes are drawn, not rounded: all alike but the lowest, in whose place stands the middle one, so that
their mean is 0 (a mean of half a code would outgrow everything else within a few layers). Each tensor
has noise of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

GRAPH, EXACT, TENSORS = "model.onnx", "exact.onnx", "tensors.json"
DATA = f"{GRAPH}_data"
PIECE = 2**24
"""Values drawn at once."""
SPREAD = 0.25
"""Scales differ by this share of their size; zero points by one code."""


def fill(folder: Path) -> int:
    """Write the data file that the graph in `folder` names; its bytes. At once, or not at all."""
    tensors = json.loads((folder / TENSORS).read_text(encoding="utf-8"))
    partial = folder / f".{DATA}"
    with partial.open("wb") as file:
        for tensor in tensors:
            file.seek(tensor["offset"])
            for piece in drawn(tensor):
                file.write(piece.tobytes())
    partial.rename(folder / DATA)
    return (folder / DATA).stat().st_size


def drawn(tensor: dict[str, Any]) -> Iterator[np.ndarray]:
    """The tensor's values, piece by piece: the same each time."""
    random = np.random.Generator(np.random.PCG64(crc32(tensor["name"].encode())))
    kind = np.dtype(tensor["type"])
    count = tensor["length"] // kind.itemsize
    for start in range(0, count, PIECE):
        yield _draw(tensor, random, min(PIECE, count - start)).astype(kind, copy=False)


def _draw(tensor: dict[str, Any], random: np.random.Generator, count: int) -> np.ndarray:
    content, size = tensor["content"], tensor.get("size", 1.0)
    if content == "ones":
        return np.ones(count, np.float32)
    if content == "normal":
        return size * random.standard_normal(count, np.float32)
    if content == "scales":
        return size * (1 + SPREAD * (2 * random.random(count, np.float32) - 1))
    table = codes_table(tensor["bits"]) if content == "codes" else zeros_table(tensor["bits"])
    return table[random.integers(0, 256, count, np.uint8)]


def codes_table(bits: int) -> np.ndarray:
    """Any byte → a byte of codes with the middle one in the lowest one's place."""
    return _bytes(np.maximum(np.arange(2**bits), 0) + (np.arange(2**bits) == 0) * 2 ** (bits - 1))


def zeros_table(bits: int) -> np.ndarray:
    """Any byte → a byte of zero points, by at most one code from the middle."""
    return _bytes(2 ** (bits - 1) + np.arange(2**bits) % 3 - 1)


def _bytes(codes: np.ndarray) -> np.ndarray:
    """A table for single codes → the table for a whole byte of them."""
    if len(codes) == 256:
        return codes.astype(np.uint8)
    low, high = np.arange(256) & 0xF, np.arange(256) >> 4
    return (codes[low] | codes[high] << 4).astype(np.uint8)


if __name__ == "__main__":
    print(fill(Path(sys.argv[1])))
