"""Tensors written straight into ONNX external-data files, none of them over Transformers.js's limit.

The names are Transformers.js's (src/utils/model-loader.js): `model_q4f16.onnx_data`, then
`model_q4f16.onnx_data_1`, `_2`, …; a file of 2 GB or more cannot be read into one ArrayBuffer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import onnx
import torch

from shared.base.hashing import record_hash

MAX_CHUNK_BYTES = 1_900_000_000
ALIGNMENT = 64

ONNX_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.int64: onnx.TensorProto.INT64,
}


class TensorSink(Protocol):
    """Takes a tensor under a name and gives back its TensorProto."""

    def add(self, name: str, tensor: torch.Tensor) -> onnx.TensorProto: ...


class ExternalDataWriter:
    """Append tensors; each comes back as a TensorProto that points at its bytes.

    A file's SHA-256 is computed on the way, so that nobody reads gigabytes again to hash them.
    """

    def __init__(
        self, onnx_file: Path, max_chunk_bytes: int = MAX_CHUNK_BYTES, *, behind: int = 0
    ) -> None:
        """`behind`: how many data files of the graph lie there already, and stay as they are."""
        self._behind = behind
        self._base = onnx_file.parent / f"{onnx_file.name}_data"
        self._limit = max_chunk_bytes
        self._file: BinaryIO | None = None
        self._offset = 0
        self.chunks: list[Path] = []

    def __enter__(self) -> ExternalDataWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._close()

    def add(self, name: str, tensor: torch.Tensor) -> onnx.TensorProto:
        """Write `tensor` at the next aligned offset of the current chunk."""
        tensor = tensor.contiguous()
        length = tensor.nbytes
        self._room_for(length)
        self._write(tensor.view(-1).view(torch.uint8).numpy().data)
        proto = self._pointer(name, tensor, length)
        self._offset += length
        return proto

    def _room_for(self, length: int) -> None:
        if self._file and self._offset + ALIGNMENT + length > self._limit:
            self._close()
        if self._file is None:
            number = self._behind + len(self.chunks)
            suffix = f"_{number}" if number else ""
            self.chunks.append(self._base.with_name(self._base.name + suffix))
            self._file, self._offset = self.chunks[-1].open("wb"), 0
            self._hash = hashlib.sha256()
        padding = -self._offset % ALIGNMENT
        self._write(b"\0" * padding)
        self._offset += padding

    def _write(self, data: bytes | memoryview) -> None:
        assert self._file
        self._file.write(data)
        self._hash.update(data)

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
            record_hash(self.chunks[-1], self._hash.hexdigest())

    def _pointer(self, name: str, tensor: torch.Tensor, length: int) -> onnx.TensorProto:
        proto = onnx.TensorProto(
            name=name,
            data_type=ONNX_TYPES[tensor.dtype],
            dims=tensor.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        place = {"location": self.chunks[-1].name, "offset": self._offset, "length": length}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        return proto
