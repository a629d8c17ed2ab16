"""The tensors of a safetensors file by its header, without torch.

>>> read_header(Path("models/legal/merged/model.safetensors"))[0]
Tensor(name='lm_head.weight', shape=(128256, 2048), dtype='BF16', file='model.safetensors')
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.base import paths
from shared.base.errors import RungFailed
from shared.safety.content import need_header

FLOATS = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}
"""What weights may be, in safetensors' words → the integers of their bits, and those of the exponent:
all of these are set in what is not finite."""
PART = 2**22
"""Numbers looked at at once."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as its file's header has it; `dtype` in safetensors' words."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str


def read_header(path: Path) -> list[Tensor]:
    """Every tensor of the file; no weight is read. RungFailed where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    need_header(path)
    try:
        with safe_open(path, framework="np") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
            return [
                Tensor(name, tuple(part.get_shape()), str(part.get_dtype()), path.name)
                for name, part in parts.items()
            ]
    except SafetensorError as error:
        raise RungFailed(f"{paths.shown(path)}: cannot be read: {error}") from None


def not_finite(path: Path) -> str | None:
    """The first tensor of a file that `read_header` took which holds an infinity or no number."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, told in header.items():
        if name == "__metadata__" or told["dtype"] not in FLOATS:
            continue
        kind, exponent = FLOATS[told["dtype"]]
        start, stop = told["data_offsets"]
        if stop == start:
            continue
        count = (stop - start) // np.dtype(kind).itemsize
        bits = np.memmap(path, kind, "r", 8 + length + start, count)
        for at in range(0, count, PART):
            if ((bits[at : at + PART] & exponent) == exponent).any():
                return str(name)
    return None
