"""The weights of a model folder, memory-mapped: safetensors only, nothing is read until it is used."""

from __future__ import annotations

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json

if TYPE_CHECKING:  # a release in which nothing changed does without torch's second of import
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
UNSAFE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
JOINED = "joined.json"
"""Names the base and the adapter that a folder without weights stands for (shared.source.joined)."""


class Parts(NamedTuple):
    """Where the weights of a model folder lie: in the folder itself, or in a base and an adapter."""

    base: Path
    adapter: Path | None = None


def parts(folder: Path) -> Parts:
    """The folder itself, but for one that an adapter was joined to: what its note names."""
    if not (folder / JOINED).is_file():
        return Parts(folder)
    note = read_json(folder / JOINED)
    return Parts(Path(note["base"]), Path(note["adapter"]) if note["adapter"] else None)


def named(file: Path) -> str:
    """`paths.shown` of a file, or, in a folder that an adapter was joined to, of the one that it is a
    copy of: that is what a person can mend."""
    note = file.parent / JOINED
    place = read_json(note).get("from", {}).get(file.name) if note.is_file() else None
    return paths.shown(Path(place) / file.name if place else file)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up the model, as its index lists them.

    Raises RungFailed where there are none (saying which unsafe formats were found instead), or
    where the index names a file that is missing or outside the folder.
    """
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if shards := [name for name in weight_names(folder) if name != "adapter_model.safetensors"]:
        raise RungFailed(
            f"{paths.shown(folder / INDEX)}: missing beside {shards[0]}"
            f"{f' and {len(shards) - 1} more' if len(shards) > 1 else ''}; one file of weights is "
            f"named {SINGLE}, several are listed by {INDEX}"
        )
    unsafe = sorted(p.name for pattern in UNSAFE for p in folder.glob(pattern))
    found = f"only {', '.join(unsafe)}, which can run code when read" if unsafe else "no weights"
    raise RungFailed(
        f"{paths.shown(folder)}: needs {SINGLE}, found {found}; "
        "save the model with save_pretrained(..., safe_serialization=True)"
    )


def weight_names(folder: Path) -> list[str]:
    """Every safetensors file of the folder, whether or not it belongs to the model."""
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _indexed(folder: Path) -> list[str]:
    where = f"{paths.shown(folder / INDEX)}: weight_map"
    index = read_json(folder / INDEX)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise RungFailed(f"{where}: must be an object of tensor names and file names")
    names = sorted(set(files.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise RungFailed(f"{where}: {name!r} is not here")
        if not name.endswith(".safetensors"):
            raise RungFailed(f"{where}: {name!r} is not safetensors, and nothing else is read")
    if not names:
        raise RungFailed(f"{where}: names no file")
    return names


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the model by name; each is a view into a memory-mapped file.

    An adapter is not merged here but by shared.source.model.
    """
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for name in weight_files(folder):
        weights |= load_file(folder / name)
    return weights


def mapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself; the base's, where an adapter is merged into it as it is read."""
    found: torch.Tensor = getattr(tensor, "base", tensor)
    return found


def forget_pages(tensor: torch.Tensor) -> None:
    """Tell the system that a memory-mapped tensor's pages may go: they count as memory until then.

    The pages are clean, so that they are read from the file again should anyone still look.
    `tensor` must come from `load_weights`; memory that torch allocated would be lost.
    """
    if tensor.is_meta:  # a plan's: it has no address
        return
    tensor = mapped(tensor)
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def forget_mapped(tensors: Iterable[torch.Tensor]) -> None:
    """`forget_pages` for those tensors that a file holds; memory that torch allocated stays.

    Without /proc/self/maps, where a system tells what is mapped, nothing is forgotten.
    """
    files = _file_mappings()
    for tensor in map(mapped, tensors):
        if tensor.is_meta:
            continue
        start = tensor.data_ptr()
        at = bisect_right(files, (start, sys.maxsize)) - 1
        if at >= 0 and start + tensor.nbytes <= files[at][1]:
            forget_pages(tensor)


def _file_mappings() -> list[tuple[int, int]]:
    """(start, end) of this process's mappings of files, in order; neighbours are joined."""
    found: list[tuple[int, int]] = []
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for addresses, _, _, _, inode, *_ in (line.split(maxsplit=5) for line in lines):
        start, end = (int(address, 16) for address in addresses.split("-"))
        if inode == "0":
            continue
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


_libc = ctypes.CDLL(None, use_errno=True)
