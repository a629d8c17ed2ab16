"""A Python environment of its own for a tool that cannot share ours: made on first use, kept whole.

>>> Venv(".venv-webgpu", "native WebGPU", Path("requirements.lock")).python()
PosixPath('.../.venv-webgpu/bin/python')

Its stamp is written last: an environment without one was never finished. Delete the folder, and it
is made anew.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.files import write_text
from shared.base.hashing import sha256_json
from shared.base.progress import say

STAMP, LOG = "stamp", "setup.log"
TAIL = 3
"""Lines of pip's log that go into the sentence."""


@dataclass(frozen=True)
class Venv:
    """`name`: its folder in the repository; `lock`: its packages with their hashes."""

    name: str
    purpose: str
    lock: Path

    @property
    def folder(self) -> Path:
        return paths.REPOSITORY / self.name

    def python(self) -> Path:
        """Its interpreter; the environment is made where it is missing, stale or half-made.

        RungFailed with the tail of pip's log where that fails; the next call starts anew.
        """
        if not self.is_finished():
            lock = paths.REPOSITORY / "build" / f"{self.name}.lock"
            lock.parent.mkdir(exist_ok=True)
            with FileLock(lock):
                if not self.is_finished():  # another process may have made it meanwhile
                    self._make()
        return self._python

    def is_finished(self) -> bool:
        stamp = self.folder / STAMP
        return stamp.is_file() and stamp.read_text() == self._wanted() and self._python.is_file()

    @property
    def _python(self) -> Path:
        return self.folder / "bin" / "python"

    def _wanted(self) -> str:
        """Pins and place: an environment that was moved or copied runs the old one's files."""
        return sha256_json([self.lock.read_text("utf-8"), str(self.folder.resolve())])

    def _make(self) -> None:
        say(f"      making {self.name} for {self.purpose} (once)")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / ".gitignore").write_text("*\n")
        self._run([sys.executable, "-m", "venv", str(self.folder)])
        pip = [str(self._python), "-I", "-m", "pip", "install", "--disable-pip-version-check"]
        for what in pip_installs(self.lock):
            say(f"      installing {Path(what[-1]).name}")
            self._run([*pip, *what])
        self._run([str(self._python), "-I", "-m", "pip", "check"])
        write_text(self.folder / STAMP, self._wanted())

    def _run(self, command: list[str]) -> None:
        """A step of the making; its words go to the log, their tail into the failure."""
        log = self.folder / LOG
        with log.open("a") as file:
            print("\n$", *command, file=file, flush=True)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        if done.returncode:
            raise RungFailed(
                f"{self.name}: the environment for {self.purpose} could not be made: "
                f"{log_tail(log)} (all of it: {paths.shown(log)})"
            )


def read_pins(lock: Path) -> list[Requirement]:
    """A lock's packages with version and marker, without their hashes."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalpha()]


def pip_installs(lock: Path) -> Iterator[tuple[str, ...]]:
    """The arguments of each `pip install`, as `./inv` has them: torch first and alone, since its
    spelling decides which build comes; last, what that build needs beyond the lock (CUDA)."""
    torch = [f"torch{pin.specifier}" for pin in read_pins(lock) if pin.name == "torch"]
    yield from (("--no-deps", name) for name in torch)
    yield "--no-deps", "--require-hashes", "-r", str(lock)
    yield from ((name,) for name in torch)


def log_tail(log: Path, lines: int = TAIL) -> str:
    """The last lines that say something, as one."""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(said[-lines:])[-400:]
