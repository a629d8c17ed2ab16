"""`.venv-optimum`: an environment of the recipe's own, made on first use, repaired if half-made.

Optimum's ONNX exporter pins an older transformers than the rest of this repository runs on. All that
is made lies in that one folder (delete it and it is made anew); its stamp is written last, so that an
environment without one was never finished. About a minute and 1.2 GB.
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

LOCK_FILE = Path(__file__).with_name("requirements.lock")
STAMP, LOG = "stamp", "setup.log"
TAIL = 3
"""Lines of pip's log that go into the sentence."""


def optimum_folder() -> Path:
    return paths.REPOSITORY / ".venv-optimum"


def optimum_python() -> Path:
    """The environment's interpreter; makes the environment where it is missing, stale or half-made.

    Raises RungFailed with the tail of pip's log where that fails; the next call starts anew.
    """
    folder = optimum_folder()
    if not _finished(folder):
        lock = paths.REPOSITORY / "build" / ".optimum-setup.lock"
        lock.parent.mkdir(exist_ok=True)
        with FileLock(lock):
            if not _finished(folder):  # another process may have made it while this one waited
                _make(folder)
    return _python(folder)


def pinned() -> dict[str, str]:
    """Package → version, as the lock has them."""
    lines = LOCK_FILE.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name: version.split(";")[0].strip() for name, version in pairs}


def _finished(folder: Path) -> bool:
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() == _wanted(folder) and _python(folder).is_file()


def _wanted(folder: Path) -> str:
    """Lock and place: an environment that was moved or copied runs the old one's files."""
    return sha256_json([LOCK_FILE.read_text(encoding="utf-8"), str(folder.resolve())])


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _make(folder: Path) -> None:
    say(f"      making {folder.name} for the optimum recipe (once, about a minute)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / ".gitignore").write_text("*\n")
    _logged(folder, [sys.executable, "-m", "venv", str(folder)])
    pip = [str(_python(folder)), "-I", "-m", "pip", "install", "--disable-pip-version-check"]
    versions = pinned()
    say(f"      installing torch=={versions['torch']} (alone: its spelling decides the build)")
    _logged(folder, [*pip, f"torch=={versions['torch']}"])
    say(f"      installing {len(versions) - 1} packages from {paths.shown(LOCK_FILE)}")
    _logged(folder, [*pip, "--no-deps", "-r", str(LOCK_FILE)])
    new = folder / f"{STAMP}.new"
    new.write_text(_wanted(folder))
    new.replace(folder / STAMP)


def _logged(folder: Path, command: list[str]) -> None:
    """Run a step of the making; its words go to the log, their tail into the failure."""
    log = folder / LOG
    with log.open("a") as file:
        print("\n$", *command, file=file, flush=True)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    if done.returncode:
        raise RungFailed(
            f"{folder.name}: the environment of the optimum recipe could not be made: "
            f"{log_tail(log)} (all of it: {paths.shown(log)})"
        )


def log_tail(log: Path, lines: int = TAIL) -> str:
    """The last lines that say something, as one."""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(said[-lines:])[-400:]
