"""A stage is atomic, resumable, locked and never redone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from shared.base.manifest import Measurement
from shared.base.stage import Plan, Produced, run_stage
from tests.events import CEILING_SECONDS

PLAN = Plan("demo", inputs={"model": "abc"}, settings={"bits": 4})


def writes_one_file(work: Path) -> Produced:
    (work / "out.txt").write_text("whole")
    return Produced({"answers": Measurement(value=3, unit="answers")})


def must_not_run(work: Path) -> Produced:
    raise AssertionError("done already")


class TestAFinishedStage:
    def test_lies_under_its_key_with_hashes_and_measurements(self, root: Path) -> None:
        done = run_stage(PLAN, writes_one_file)
        assert done.folder == root / "build" / "demo" / PLAN.key
        assert done.manifest.outputs["out.txt"].bytes == 5
        assert done.manifest.measurements["answers"].value == 3
        assert done.manifest.peak_rss_bytes > 1e6

    def test_is_not_done_again(self, root: Path) -> None:
        run_stage(PLAN, writes_one_file)
        assert run_stage(PLAN, must_not_run).reused

    def test_is_done_again_when_forced(self, root: Path) -> None:
        run_stage(PLAN, writes_one_file)
        assert not run_stage(PLAN, writes_one_file, force=True).reused

    def test_is_done_again_when_an_output_was_cut(self, root: Path) -> None:
        done = run_stage(PLAN, writes_one_file)
        (done.folder / "out.txt").write_text("who")
        assert not run_stage(PLAN, writes_one_file).reused

    def test_is_done_again_when_its_manifest_is_broken(self, root: Path) -> None:
        done = run_stage(PLAN, writes_one_file)
        (done.folder / "manifest.json").write_text("{")
        assert not run_stage(PLAN, writes_one_file).reused


class TestTheKey:
    def test_changes_with_inputs_settings_tools_and_code(self) -> None:
        others = [
            Plan("demo", {"model": "abd"}, {"bits": 4}),
            Plan("demo", {"model": "abc"}, {"bits": 8}),
            Plan("demo", {"model": "abc"}, {"bits": 4}, {"onnx": "1"}),
            Plan("demo", {"model": "abc"}, {"bits": 4}, code=("shared.base.errors",)),
        ]
        assert len({PLAN.key, *(plan.key for plan in others)}) == 5


class TestAStageThatFails:
    def test_leaves_nothing_under_its_final_name(self, root: Path) -> None:
        def breaks(work: Path) -> Produced:
            (work / "half.txt").write_text("half")
            raise RuntimeError("disk full")

        with pytest.raises(RuntimeError):
            run_stage(PLAN, breaks)
        assert not PLAN.folder.exists()

    def test_starts_from_an_empty_folder_next_time(self, root: Path) -> None:
        self.test_leaves_nothing_under_its_final_name(root)
        done = run_stage(PLAN, writes_one_file)
        assert set(done.manifest.outputs) == {"out.txt"}

    def test_resumes_from_what_it_had_where_it_can(self, root: Path) -> None:
        def appends(work: Path) -> Produced:
            lines = (work / "log").read_text() if (work / "log").exists() else ""
            (work / "log").write_text(lines + "x")
            if not lines:
                raise RuntimeError("killed")
            return Produced()

        with pytest.raises(RuntimeError):
            run_stage(PLAN, appends, keep_partial=True)
        done = run_stage(PLAN, appends, keep_partial=True)
        assert (done.folder / "log").read_text() == "xx"
        assert done.manifest.resumed, "its seconds are not those of the whole work"
        anew = run_stage(PLAN, writes_one_file, keep_partial=True, force=True)
        assert not anew.manifest.resumed


def _slow_stage(started: object) -> None:
    def slow(work: Path) -> Produced:
        (work / "half.txt").write_text("half")
        started.set()  # type: ignore[attr-defined]
        threading.Event().wait()
        return Produced()

    run_stage(PLAN, slow)


def test_kill_9_frees_the_lock_and_leaves_nothing(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_slow_stage, args=(started,))
    process.start()
    assert started.wait(CEILING_SECONDS) and process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not PLAN.folder.exists()
    assert not run_stage(PLAN, writes_one_file).reused
