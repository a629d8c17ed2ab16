"""A folder is swapped in whole: whenever the process dies, the old one or the new one is there."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shared.base import files as folders
from shared.base.files import recover, swap_in
from tests.events import wait_until


class Killed(BaseException):
    """What no `except Exception` catches, as kill -9."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """(the work, the folder that it is to replace)"""
    for name in (".webgpu.partial", "webgpu"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.json").write_text("new" if name[0] == "." else "old")
    return tmp_path / ".webgpu.partial", tmp_path / "webgpu"


def die_at_rename(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process ends before its rename of that number."""
    rename, seen = Path.rename, []

    def counted(self: Path, target: Any) -> Path:
        seen.append(target)
        if len(seen) == number:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", counted)


def says(folder: Path) -> str:
    return (folder / "release.json").read_text()


def test_it_is_swapped_and_nothing_is_left(pair: tuple[Path, Path]) -> None:
    swap_in(*pair)
    assert says(pair[1]) == "new"
    assert [path.name for path in pair[1].parent.iterdir()] == ["webgpu"]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Linux alone swaps in one step")
def test_the_new_one_is_there_before_anything_is_renamed(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at_rename(monkeypatch, 1)
    with suppress(Killed):
        swap_in(*pair)
    assert says(pair[1]) == "new"


def test_what_is_half_deleted_is_nothing_that_a_run_would_resume_from(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(folder: Path, **_: Any) -> None:
        if folder.exists():
            (folder / "release.json").unlink()
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folders.shutil, "rmtree", dying)
        swap_in(*pair)
    assert says(pair[1]) == "new" and not pair[0].exists()
    recover(pair[1])
    assert [path.name for path in pair[1].parent.iterdir()] == ["webgpu"]


@pytest.mark.parametrize("number", [1, 2])
def test_without_that_call_the_next_start_puts_the_old_one_back(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at_rename(patch, number)
        swap_in(*pair)
    recover(pair[1])
    assert says(pair[1]) == "old"
    swap_in(*pair)
    assert says(pair[1]) == "new"
    assert [path.name for path in pair[1].parent.iterdir()] == ["webgpu"]


def test_a_process_that_is_killed_at_any_moment_leaves_one_of_the_two(tmp_path: Path) -> None:
    """A child swaps as fast as it can; the parent looks all the while, and kills it."""
    final = tmp_path / "webgpu"
    final.mkdir()
    (final / "release.json").write_text("0")
    child = os.fork()
    if child == 0:
        for number in range(100_000):
            work = tmp_path / ".webgpu.partial"
            work.mkdir()
            (work / "release.json").write_text(str(number))
            swap_in(work, final)
        os._exit(0)
    looked = [says(final) for _ in range(300)]
    wait_until(lambda: int(says(final)) > 300)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    recover(final)
    assert all(text.isdigit() for text in [*looked, says(final)])
