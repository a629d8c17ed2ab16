"""`invoke` by an interpreter that has nothing else: what works there, and how it goes on elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import invoke
import pytest

from shared.base import paths

STAND_IN = '#!/bin/sh\necho "inv $PWD|$*" && cat\nexit 3\n'
"""Takes the place of ./inv, which would make a whole environment."""
FOLDERS = ("", "domains", "domains/legal", "shared/cli", "docs/a b", "ä")


@pytest.fixture(scope="module")
def bare(new_folder: Callable[[str], Path]) -> Path:
    """A Python with invoke and no other package."""
    folder = new_folder("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    here = Path(invoke.__file__).parent
    for found in (here, *here.parent.glob("invoke-*.dist-info")):
        (packages / found.name).symlink_to(found)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def clone(new_folder: Callable[[str], Path]) -> Path:
    """A fresh clone, with spaces and an umlaut in its path."""
    root = new_folder("ein schöner") / "Klon 1"
    code = shutil.ignore_patterns("node_modules", "__pycache__")
    shutil.copytree(paths.REPOSITORY / "shared", root / "shared", ignore=code)
    shutil.copytree(paths.REPOSITORY / "domains" / "legal", root / "domains" / "legal")
    for name in ("tasks.py", "pyproject.toml", "requirements.in"):
        shutil.copy(paths.REPOSITORY / name, root)
    (root / "inv").write_text(STAND_IN)
    (root / "inv").chmod(0o755)
    for name in FOLDERS:
        (root / name).mkdir(exist_ok=True, parents=True)
    return root


def run(bare: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DOCINTEL", "PYTHON"))}
    return subprocess.run(
        [str(bare), "-m", "invoke", *words],
        cwd=folder, env=clean, input="piped\n", capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_command_goes_on_in_the_environment_of_inv(bare: Path, clone: Path, name: str) -> None:
    done = run(bare, clone / name, "release", "--domain", "legal", "--records", "3")
    where = (clone / name).resolve()
    assert done.stdout == f"inv {where}|release --domain legal --records 3\npiped\n", done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize("name", FOLDERS)
def test_the_list_needs_no_environment(bare: Path, clone: Path, name: str) -> None:
    done = run(bare, clone / name, "--list")
    assert (
        done.returncode == 0 and "\n  release-all " in done.stdout and "\n  dev.lint" in done.stdout
    )


@pytest.mark.parametrize("words", [("-h",), ("--domain", "legal", "-h"), ("--help",)])
def test_help_starts_nothing(bare: Path, clone: Path, words: tuple[str, ...]) -> None:
    done = run(bare, clone, "release", *words)
    assert done.returncode == 0 and "--records" in done.stdout and "inv /" not in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("inv re", "release"),
        ("invoke release --", "--dry-run"),
        ("./inv release --domain le", "legal"),
        ("invoke release --domain", "legal"),
    ],
)
def test_completion_needs_no_environment(bare: Path, clone: Path, typed: str, offered: str) -> None:
    done = run(bare, clone / "docs/a b", "--complete", "--", *typed.split())
    assert done.returncode == 0 and offered in done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    "words",
    [("relese",), ("release", "--domian", "legal"), ("release",), ("serve", "--port", "x")],
)
def test_what_cannot_be_meant_exits_with_2(bare: Path, clone: Path, words: tuple[str, ...]) -> None:
    done = run(bare, clone, *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_no_other_file_of_this_name_is_found_first() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*tasks.py", "*tasks/__init__.py"],
        cwd=paths.REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.stdout.split() in (["tasks.py"], [])
