"""A function in a process of its own: what it gives back, what it takes, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
from invoke import Collection

from shared.base import paths, processes
from shared.base.apart import apart
from shared.base.errors import RungFailed, UserError
from shared.base.hashing import NotDone, only_what_is_done
from shared.base.processes import peak_memory, runs
from shared.base.progress import bar, lines_to, say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.cli.program import run
from shared.domain.domain import load_domain
from shared.evaluate.check import check_stage
from shared.pipeline import stages
from shared.pipeline.chain import select_records
from shared.pipeline.run_log import run_log
from shared.pipeline.stages import Options, in_room_of_its_own
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
    """With a process of its own, as pip is started for an exporter's environment."""
    with subprocess.Popen(["sleep", "60"]) as below, bar("waiting", 2) as step:
        step("one")
        file.with_suffix(".part").write_text(f"{os.getpid()} {below.pid}")
        file.with_suffix(".part").rename(file)
        try:
            time.sleep(60)
        finally:
            file.with_suffix(".tidied").touch()


def leave() -> None:
    sys.exit(7)


def odd_value() -> object:
    return lambda: None


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


def test_other_ends_point_to_what_was_said_and_not_to_memory() -> None:
    with pytest.raises(UserError, match=r"leave: its process was gone \(exit code 7\)") as caught:
        apart(leave)
    assert "memory" not in str(caught.value)


def test_a_value_that_cannot_travel_is_an_error_that_says_so() -> None:
    with pytest.raises(Exception, match="pickle"):
        apart(odd_value)


BREAKS = """
import sys
if __name__ == "__mp_main__":
    sys.exit(3)
if __name__ == "__main__":
    from shared.base.apart import apart
    from shared.base.errors import UserError
    try:
        apart(len, b"x" * 1_000_000)
    except UserError as error:
        print(error)
"""


def test_a_process_that_dies_before_it_has_read_its_work_is_not_waited_for(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(BREAKS)
    run = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(paths.REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.startswith("len: its process was gone (exit code 3)")


def test_what_a_stage_is_given_travels_as_it_is(root: Path) -> None:
    domain = load_domain("legal")
    selection, source = select_records(domain, Options()), Source(root, make(0))
    call = partial(check_stage, domain, domain.rung("smollm3"), source, make(1), selection)
    ours, theirs = Pipe()
    threading.Thread(target=ours.send, args=(call,), daemon=True).start()
    again = theirs.recv()
    assert again.func is check_stage
    assert again.args == call.args


def test_the_main_module_read_again_runs_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/invoke/tasks.py", "--list"])
    run("__mp_main__", Collection())


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
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.05)
    family = [psutil.Process(int(number)) for number in file.read_text().split()]
    if how == signal.SIGINT:  # as a terminal sends it
        os.killpg(parent.pid, how)
    else:
        parent.send_signal(how)
    told = parent.communicate(timeout=20)[1]
    while any(map(runs, family)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(runs, family))
    assert file.with_suffix(".tidied").exists() == (how == signal.SIGINT)
    assert told == ""
    assert parent.returncode == (130 if how == signal.SIGINT else -how)


def make(number: int) -> StageResult:
    """A stage that remembers in which process it was made."""
    plan = Plan("made", inputs={"number": str(number)})
    return run_stage(plan, lambda work: Produced(facts={"process": os.getpid()}))


class TestALargeModelsStage:
    @pytest.fixture(autouse=True)
    def large(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stages, "is_large", lambda folder: True)

    def test_is_made_in_a_process_of_its_own_and_once(self, root: Path) -> None:
        first = in_room_of_its_own(root, partial(make, 1))
        assert first.manifest.facts["process"] != os.getpid()
        assert not first.reused
        again = in_room_of_its_own(root, partial(make, 1))
        assert again.reused
        assert again.manifest == first.manifest

    def test_is_not_made_where_no_work_was_asked_for(self, root: Path) -> None:
        with only_what_is_done(), pytest.raises(NotDone):
            in_room_of_its_own(root, partial(make, 2))

    def test_a_small_models_is_made_here(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stages, "is_large", lambda folder: False)
        made = in_room_of_its_own(root, partial(make, 3))
        assert made.manifest.facts["process"] == os.getpid()
