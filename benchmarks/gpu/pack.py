"""Everything a machine without a network needs to measure: wheels, scripts, graphs, in carried parts.

Of the full-size architectures the graphs alone go along, whose random weights are made there; of the
embedded model the quantised weights too. A part is a tar file; each may be unpacked by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu.carried import FILES, LIBRARIES, PIECE_SUFFIX, WHEELS
from benchmarks.gpu.graphs import EMBEDDED, token_ids, write_model
from benchmarks.gpu.measure import PLAN
from benchmarks.gpu.variants import VARIANTS, Variant
from benchmarks.gpu.weights import DATA, EXACT, GRAPH
from shared.base import paths
from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.hashing import sha256_file
from shared.base.manifest import tool_versions
from shared.base.progress import say
from shared.base.venv import log_tail, pip_installs
from shared.webgpu_bench.engines.native_webgpu import VENV
from shared.webgpu_bench.engines.vulkan import LOADER, SWIFTSHADER

EVERY_VARIANT = tuple(variant.name for variant in VARIANTS)
PART_BYTES = 60_000_000
MARGIN = 20_480
"""Bytes that a tar file has beside its files' own: its end, rounded up to a record."""
SCRIPTS = (
    *("shared/__init__.py", "shared/webgpu_bench/__init__.py"),
    *("shared/webgpu_bench/engines/__init__.py", "shared/webgpu_bench/engines/vulkan.py"),
    *("shared/webgpu_bench/engines/webgpu_child.py", "benchmarks/__init__.py"),
    *(f"benchmarks/gpu/{name}.py" for name in ("__init__", "carried", "measure", "memory")),
    *(f"benchmarks/gpu/{name}.py" for name in ("reader", "weights")),
)
"""What runs there. None of them imports anything else of this repository."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
LOADERS = (Path("/usr/lib/x86_64-linux-gnu"), *(path.parent for path in SWIFTSHADER))
START = """\"\"\"Unpack all parts into one folder, run this there until it exits with 0:

$ python measure.py --seconds 540

Then carry results.json back. Random weights of a full-size model take 2 GB of disk for each format.
Where Vulkan finds no GPU, VK_DRIVER_FILES can name the icd.json of its driver.
\"\"\"

import sys

from benchmarks.gpu.measure import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Packed:
    """The parts, and how many bytes each has."""

    parts: list[Path]

    def __str__(self) -> str:
        return "\n".join(f"{part.name}  {number(part.stat().st_size, 'B')}" for part in self.parts)


def pack(
    out: Path,
    models: Sequence[str],
    dtypes: Sequence[str],
    variants: Sequence[str] = EVERY_VARIANT,
    python: str | None = "3.12",
    part_bytes: int = PART_BYTES,
) -> Packed:
    """Write the folder `out`/unpacked and its parts beside it.

    `python`: the version there (Linux, x86-64), for which wheels are fetched; None leaves them out.
    UserError where a wheel is not to be had, or `out` holds anything already.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{paths.shown(out)}: is not empty")
    root = out / "unpacked"
    _scripts(root)
    if python:
        fetch_wheels(root / WHEELS, python)
        _loader(root / LIBRARIES)
    chosen = [v for v in VARIANTS if v.name in variants]
    entries = [
        entry
        for variant in chosen
        for model in models
        for dtype in dtypes
        for entry in _entries(root, model, dtype, variant)
    ]
    for model in models:
        (root / f"models/{model}/ids.json").write_text(json.dumps(token_ids(model)))
    tools = tool_versions("onnx", "mobius-onnx", "transformers", "torch")
    plan = {"made": date.today().isoformat(), "tools": tools, "entries": entries}
    (root / PLAN).write_text(json.dumps(plan, indent=1) + "\n")
    return Packed(list(write_parts(root, out, part_bytes)))


def _scripts(root: Path) -> None:
    for name in SCRIPTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths.REPOSITORY / name, root / name)
    (root / "measure.py").write_text(START)


def fetch_wheels(folder: Path, python: str) -> None:
    """The wheels of the native engine's lock, by pip, with their hashes."""
    say(f"wheels for Python {python}")
    folder.mkdir(parents=True)
    log = folder.parent / ".pip.log"
    where = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    where += [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    for what in pip_installs(VENV.lock):
        command = [sys.executable, "-m", "pip", "download", *what, *where, "-d", str(folder)]
        with log.open("a") as out:
            done = subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"wheels for Python {python}: {log_tail(log)}")
    log.unlink()


def _loader(folder: Path) -> None:
    """Vulkan's loader, for a machine that has a driver and no loader; left out where this has none."""
    found = next((f / LOADER for f in LOADERS if (f / LOADER).is_file()), None)
    if found:
        folder.mkdir(parents=True)
        shutil.copyfile(found, folder / LOADER)


def _entries(root: Path, model: str, dtype: str, variant: Variant) -> Iterator[dict[str, Any]]:
    """One entry of the plan; its files are written where another variant has not done so."""
    folder = Path("models", model, dtype, variant.format.name)
    if not (root / folder).is_dir():
        say(f"{model} {dtype} {variant.format.name}")
        write_model(model, root / folder, dtype, variant.format)
    yield {
        "name": f"{model}/{dtype}/{variant.name}",
        "model": model,
        "dtype": dtype,
        "variant": variant.name,
        "words": variant.words,
        "weights": "its own" if model == EMBEDDED else "random",
        "folder": folder.as_posix(),
        "graph": EXACT if variant.exact else GRAPH,
        "exact": EXACT,
        "ids": f"models/{model}/ids.json",
    }


def write_parts(root: Path, out: Path, part_bytes: int) -> Iterator[Path]:
    """The folder's files in tar files of at most `part_bytes`, in the order of their need: scripts and
    wheels, graphs, data. A larger file is cut into pieces, which `carried.join_pieces` joins."""
    room = part_bytes - MARGIN
    files = sorted(path for path in root.rglob("*") if path.is_file())
    listed = {str(path.relative_to(root)): _listed(path, room) for path in files}
    (root / FILES).write_text(json.dumps(listed, indent=1) + "\n")
    pieces = [
        piece for path in (root / FILES, *sorted(files, key=_order)) for piece in _cut(path, room)
    ]
    for index, part in enumerate(_filled(pieces, room), start=1):
        file = out / f"part-{index:02}.tar"
        with tarfile.open(file, "w") as tar:
            for path, start, length, name in part:
                info = tarfile.TarInfo(str(path.parent.relative_to(root) / name))
                info.size = length
                with path.open("rb") as source:
                    source.seek(start)
                    tar.addfile(info, source)
        yield file


Piece = tuple[Path, int, int, str]
"""A file, where its piece begins, its length, and the name it travels under."""


def _order(path: Path) -> tuple[int, str]:
    return (2 if path.name == DATA else 1 if "models" in path.parts else 0), str(path)


def _listed(path: Path, room: int) -> dict[str, Any]:
    count = len(_cut(path, room))
    pieces = count if count > 1 else 0
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path), "pieces": pieces}


def _cut(path: Path, room: int) -> list[Piece]:
    size, most = path.stat().st_size, room - tarfile.BLOCKSIZE * 2
    if size <= most:
        return [(path, 0, size, path.name)]
    starts = range(0, size, most)
    return [
        (path, start, min(most, size - start), f"{path.name}{PIECE_SUFFIX}{i:02}")
        for i, start in enumerate(starts)
    ]


def _filled(pieces: Sequence[Piece], room: int) -> Iterator[list[Piece]]:
    """Pieces in their order, as many a part as fit."""
    part: list[Piece] = []
    used = 0
    for piece in pieces:
        size = tarfile.BLOCKSIZE * (2 + piece[2] // tarfile.BLOCKSIZE)
        if part and used + size > room:
            yield part
            part, used = [], 0
        part.append(piece)
        used += size
    if part:
        yield part
