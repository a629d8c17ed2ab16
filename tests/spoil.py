"""Packages spoilt on purpose: a copy whose one tensor is scaled, the original left as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo


def copied(package: Path, folder: Path) -> Path:
    """A copy of hard links; what is to be changed must be replaced, not written into."""
    return Path(shutil.copytree(package, folder, copy_function=os.link))


def scale_tensor(package: Path, dtype: str, name: str, factor: float) -> None:
    """Multiply one initializer of a copied package, in its external data file."""
    graph = package / "onnx" / f"model_{dtype}.onnx"
    model = onnx.load(graph, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    place = ExternalDataInfo(tensor)
    data = graph.parent / place.location
    dtype_of = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    content = bytearray(data.read_bytes())
    count = place.length // dtype_of.itemsize
    values = np.frombuffer(content, dtype_of, count, place.offset) * dtype_of.type(factor)
    content[place.offset : place.offset + place.length] = values.astype(dtype_of).tobytes()
    data.unlink()
    data.write_bytes(content)
