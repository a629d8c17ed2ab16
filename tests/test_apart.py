"""A function in a process of its own: what it gives back, what it takes, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import psutil
import pytest

from shared.base import processes
from shared.base.apart import apart
from shared.base.errors import RungFailed, UserError
from shared.base.hashing import NotDone, only_what_is_done
from shared.base.processes import peak_memory, runs
from shared.base.progress import lines_to, say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import load_domain
from shared.pipeline import stages
from shared.pipeline.chain import select_records
from shared.pipeline.run_log import run_log
from shared.pipeline.stages import Options, RungRun
from shared.source.source import Source

HELD = 300_000_000


def double(number: int, *, more: int = 0) -> tuple[int, int]:
    return 2 * number + more, os.getpid()


def fail(kind: str) -> None:
    if kind == "rung":
        raise RungFailed("config.json: no such architecture")
    if kind == "odd":
        raise OddError("a", "b")
    raise ValueError("a defect")


class OddError(Exception):
    """One that pickle cannot make again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def end_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def speak() -> None:
    say("from a process of its own")


def hold() -> list[int]:
    """The peak that a stage would keep of itself."""
    with peak_memory() as peak:
        held = b"x" * HELD
        time.sleep(0.2)
    return [peak[0], len(held), psutil.Process().memory_info().rss]


def wait(file: Path) -> None:
    file.write_text(str(os.getpid()))
    time.sleep(60)


def test_gives_the_value_from_another_process() -> None:
    value, where = apart(double, 20, more=2)
    assert value == 42
    assert where != os.getpid()


def test_raises_what_the_function_raises_with_its_traceback() -> None:
    with pytest.raises(RungFailed, match="no such architecture"):
        apart(fail, "rung")
    with pytest.raises(ValueError, match="a defect") as caught:
        apart(fail, "defect")
    assert 'raise ValueError("a defect")' in "".join(traceback.format_exception(caught.value))


def test_an_error_that_cannot_travel_comes_as_its_words() -> None:
    with pytest.raises(RuntimeError, match="OddError: a and b"):
        apart(fail, "odd")


def test_a_process_that_the_system_ended_is_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match="end_itself: its process was ended by signal 9") as caught:
        apart(end_itself)
    assert not isinstance(caught.value, RungFailed)  # no lesser model is taken in its place


def test_its_memory_is_gone_afterwards_and_counts_together_with_what_waits_for_it() -> None:
    before = psutil.Process().memory_full_info().uss
    peak, held, its_own = apart(hold)
    assert held == HELD
    assert peak > its_own + 0.5 * before
    assert psutil.Process().memory_full_info().uss - before < HELD / 3
    assert processes._root is None


def test_what_it_says_is_in_the_log_and_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCINTEL_ROOT", str(tmp_path))
    with run_log("release") as log:
        apart(speak)
    assert "from a process of its own" in log.file.read_text()
    assert "from a process of its own" in capfd.readouterr().err


def test_a_worker_whose_lines_somebody_takes_does_it_itself() -> None:
    with lines_to(lambda line: None):
        assert apart(double, 1)[1] == os.getpid()


PARENT = """
import sys
from pathlib import Path
from shared.base.apart import apart
from tests.test_apart import wait
try:
    apart(wait, Path(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name
)
def test_ends_with_the_process_that_waits_for_it(how: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "process"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(file)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    child = psutil.Process(int(file.read_text()))
    if how == signal.SIGINT:  # as a terminal sends it
        os.killpg(parent.pid, how)
    else:
        parent.send_signal(how)
    told = parent.communicate(timeout=20)[1]
    while runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(child)
    assert told == ""
    assert parent.returncode == (130 if how == signal.SIGINT else -how)


def make(number: int) -> StageResult:
    """A stage that remembers in which process it was made."""
    plan = Plan("made", inputs={"number": str(number)})
    return run_stage(plan, lambda work: Produced(facts={"process": os.getpid()}))


class TestALargeModelsStage:
    @pytest.fixture
    def run(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> RungRun:
        domain = load_domain("legal")
        options = Options()
        found = RungRun(
            domain, domain.rung("smollm3"), "olive", select_records(domain, options), options
        )
        found.source = Source(root, make(0))
        monkeypatch.setattr(stages, "is_large", lambda folder: True)
        return found

    def test_is_made_in_a_process_of_its_own_and_once(self, run: RungRun) -> None:
        first = run._in_room_of_its_own(partial(make, 1))
        assert first.manifest.facts["process"] != os.getpid()
        assert not first.reused
        again = run._in_room_of_its_own(partial(make, 1))
        assert again.reused
        assert again.manifest == first.manifest

    def test_is_not_made_where_no_work_was_asked_for(self, run: RungRun) -> None:
        with only_what_is_done(), pytest.raises(NotDone):
            run._in_room_of_its_own(partial(make, 2))

    def test_a_small_models_is_made_here(
        self, run: RungRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stages, "is_large", lambda folder: False)
        made = run._in_room_of_its_own(partial(make, 3))
        assert made.manifest.facts["process"] == os.getpid()
