"""`.venv-webgpu`: onnxruntime with the native WebGPU provider, in an environment of its own.

The package shares its import name with `onnxruntime`, so the two cannot live together. Made on first
use (half a minute, 150 MB), repaired if half-made; delete the folder and it is made anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.hashing import sha256_json
from shared.base.progress import say

PACKAGES = (
    "onnxruntime-webgpu==1.27.0",
    "numpy==2.4.6",
    "flatbuffers==25.12.19",
    "protobuf==7.36.2",
    "packaging==26.3",
)
STAMP, LOG = "stamp", "setup.log"


def webgpu_folder() -> Path:
    return paths.REPOSITORY / ".venv-webgpu"


def webgpu_python() -> Path:
    """The environment's interpreter. Raises RungFailed with pip's last line where it cannot be made."""
    folder = webgpu_folder()
    lock = paths.REPOSITORY / "build" / ".webgpu-setup.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        if not _finished(folder):
            _make(folder)
    return folder / "bin" / "python"


def _finished(folder: Path) -> bool:
    stamp = folder / STAMP
    whole = stamp.is_file() and (folder / "bin" / "python").is_file()
    return whole and stamp.read_text() == _wanted(folder)


def _wanted(folder: Path) -> str:
    return sha256_json([PACKAGES, str(folder.resolve())])


def _make(folder: Path) -> None:
    say(f"      making {folder.name} for native WebGPU (once, half a minute)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / ".gitignore").write_text("*\n")
    _logged(folder, [sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--no-deps"]
    _logged(folder, [*pip, "--disable-pip-version-check", *PACKAGES])
    (folder / STAMP).write_text(_wanted(folder))


def _logged(folder: Path, command: list[str]) -> None:
    log = folder / LOG
    with log.open("a") as file:
        print("\n$", *command, file=file, flush=True)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    if done.returncode:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line]
        where = paths.shown(log)
        raise RungFailed(f"{folder.name} could not be made: {lines[-1][:200]} (all of it: {where})")
