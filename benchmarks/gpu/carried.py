"""Runs where the GPU is, with the standard library alone: what was carried there, made ready."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from shared.webgpu_bench.engines.vulkan import ONLY_GPUS, have_loader, swiftshader

FILES, SITE, LIBRARIES, WHEELS = "files.json", "site", "lib", "wheels"
PIECE_SUFFIX = ".piece-"
"""A file larger than a part travels as `name.piece-00`, `name.piece-01`, …"""
BLOCK = 2**24


class Refused(Exception):
    """One sentence: why nothing can be measured."""


class Adapter(NamedTuple):
    """What WebGPU runs on: its name, whether it is a CPU, and the variables that a child needs."""

    name: str
    software: bool
    env: dict[str, str]


def join_pieces(root: Path) -> None:
    """Put carried pieces together where all of a file's are there; Refused where one is spoiled."""
    listed: dict[str, dict[str, Any]] = json.loads((root / FILES).read_text(encoding="utf-8"))
    for name, file in listed.items():
        pieces = [root / f"{name}{PIECE_SUFFIX}{i:02}" for i in range(file["pieces"])]
        if not pieces or not all(piece.is_file() for piece in pieces):
            continue
        partial = (root / name).with_name(f".{Path(name).name}")
        digest = hashlib.sha256()
        with partial.open("wb") as out:
            for piece in pieces:
                with piece.open("rb") as source:
                    while block := source.read(BLOCK):
                        digest.update(block)
                        out.write(block)
        if digest.hexdigest() != file["sha256"]:
            partial.unlink()
            raise Refused(f"{name}: its pieces are not what was packed; carry them again")
        partial.rename(root / name)
        for piece in pieces:
            piece.unlink()


def install(root: Path) -> Path:
    """The carried wheels in a folder of their own, once; Refused with pip's last line."""
    site = root / SITE
    wheels = sorted(map(str, (root / WHEELS).glob("*.whl")))
    if site.is_dir() or not wheels:
        return site
    partial = root / f".{SITE}"
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(partial), *wheels], capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{WHEELS}: {last_line(done.stderr)}")
    partial.rename(site)
    return site


def find_adapter(root: Path) -> Adapter:
    """A GPU where Vulkan lists one; else the SwiftShader of a Chromium. Refused where there is none."""
    env: dict[str, str] = {}
    if not have_loader():
        env["LD_LIBRARY_PATH"] = str(root / LIBRARIES)
    gpus = [device for device in _devices(root, env | ONLY_GPUS) if not device["software"]]
    if gpus:
        return Adapter(gpus[0]["name"], False, env | ONLY_GPUS)
    if icd := swiftshader():
        env |= {"VK_ICD_FILENAMES": str(icd), "VK_DRIVER_FILES": str(icd)}
        if found := _devices(root, env):
            return Adapter(found[0]["name"], True, env)
    raise Refused(
        "Vulkan lists no GPU (VK_DRIVER_FILES can name its driver's icd.json), and there is no "
        "Chromium to lend its SwiftShader"
    )


def _devices(root: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    """In a process of its own: the loader reads its variables once."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.webgpu_bench.engines.vulkan"],
        env=os.environ | env,
        cwd=root,
        capture_output=True,
        text=True,
    )
    return list(json.loads(done.stdout or "[]"))


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "nothing was said"
