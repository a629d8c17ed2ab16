"""A browser's processes are found and ended, also those that have lost their parent."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import psutil
import pytest

from shared.base.processes import ProcessTree, runs
from tests.events import wait_until


@pytest.fixture
def family() -> Iterator[ProcessTree]:
    """A shell with a child of its own, a mark on the shell's command line alone."""
    found = ProcessTree(f"--mark={uuid.uuid4().hex}")
    shell = subprocess.Popen(["sh", "-c", "sleep 300 & wait", found.mark])
    wait_until(lambda: [c.name() for c in psutil.Process(shell.pid).children()] == ["sleep"], shell)
    yield found
    found.kill()
    shell.wait()


def test_it_is_the_marked_process_and_its_children(family: ProcessTree) -> None:
    family.look()
    assert sorted(p.name() for p in family.living()) == ["sh", "sleep"]


def test_an_orphan_that_was_seen_is_ended_as_well(family: ProcessTree) -> None:
    family.look()
    shell = next(p for p in family.living() if p.name() == "sh")
    [orphan] = shell.children()
    shell.kill()
    shell.wait()
    assert runs(orphan)
    assert family.kill() == []
    assert family.living() == [] and not runs(orphan)


def test_what_comes_later_is_seen_while_it_is_watched(
    family: ProcessTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.base.processes.LOOK_EVERY_SECONDS", 0.05)
    with family.watched():
        wait_until(lambda: len(family.living()) == 2)
    assert len(family.living()) == 2


def test_others_are_left_alone(family: ProcessTree) -> None:
    other = subprocess.Popen(["sleep", "300"])
    assert family.kill() == []
    assert other.poll() is None
    other.kill()
    other.wait()
