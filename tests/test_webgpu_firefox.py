"""What can go wrong between us and Firefox has a name, and its processes are gone afterwards."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from marionette_driver import errors

from shared.base.processes import ProcessTree, runs
from shared.setup.browser import INSTALL_FIREFOX, find_firefox
from shared.webgpu_bench import driver, firefox
from shared.webgpu_bench.firefox import _Tab, run_in_firefox
from shared.webgpu_bench.result import BrowserResult
from tests.events import CEILING_SECONDS, wait_until

FAULTS = {
    "the page threw": (errors.JavascriptException("ReferenceError: x"), "run_failed"),
    "a script hung": (errors.ScriptTimeoutException("30000 ms"), "timeout"),
    "the socket was silent": (TimeoutError("timed out"), "timeout"),
    "the tab is gone": (errors.NoSuchWindowException("discarded"), "crashed"),
    "the socket is closed": (ConnectionResetError("reset by peer"), "crashed"),
    "no word at all": (BrokenPipeError(), "crashed"),
}


class Session:
    """Marionette where every call ends in `error`; with None the page is for ever silent."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.timeout = type("Timeouts", (), {"script": 0})()

    def navigate(self, url: str) -> None:
        if self.error:
            raise self.error

    def execute_script(self, script: str, **how: Any) -> Any:
        return [], None


@pytest.mark.parametrize(("error", "outcome"), FAULTS.values(), ids=FAULTS)
def test_every_fault_has_an_outcome_and_a_sentence(error: Exception, outcome: str) -> None:
    tab = _Tab(Session(error), ProcessTree("--nothing-carries-this"))
    found = firefox._answered(
        tab, "http://127.0.0.1/", {}, time.monotonic() + 60, lambda line: None
    )
    assert (found.outcome, found.ok) == (outcome, False)
    assert found.error


def test_a_page_that_never_answers_is_a_timeout() -> None:
    tab = _Tab(Session(None), ProcessTree("--nothing-carries-this"))
    found = firefox._answered(tab, "http://127.0.0.1/", {}, 0, lambda line: None)
    assert found.outcome == "timeout"


def ask(package: Path, timeout_s: float, **more: Any) -> BrowserResult:
    found = find_firefox()
    if found is None:
        pytest.skip(f"no Firefox here: {INSTALL_FIREFOX}")
    prompt = {"id": "a", "input_ids": [1, 4093, 198, 1780], "max_new_tokens": 2}
    request = {"model": "m", "dtype": "auto", "prompts": [prompt], "deadline_ms": 800_000}
    return run_in_firefox(package, request, firefox=found, timeout_s=timeout_s, **more)


@pytest.mark.slow
class TestARealFirefox:
    def test_that_hangs_is_ended_with_all_its_processes(
        self, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = Path(shutil.copytree(driver.PAGE, tmp_path / "page"))
        (page / "driven.js").write_text("export const run = () => { while (true); };")
        monkeypatch.setattr(driver, "PAGE", page)
        monkeypatch.setattr(firefox, "GRACE_SECONDS", 2)
        before = set(psutil.Process().children(recursive=True))
        seen: set[psutil.Process] = set()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                seen.update(set(psutil.Process().children(recursive=True)) - before)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        found = ask(package, timeout_s=4)
        ended.set()
        watcher.join()
        assert found.outcome == "timeout"
        assert len(seen) > 3, "content processes were there"
        wait_until(lambda: not any(map(runs, seen)), ceiling=60)

    def test_whose_page_process_dies_has_crashed(self, package: Path) -> None:
        def kill(line: str) -> None:
            for child in psutil.Process().children(recursive=True):
                if "tab" in child.cmdline()[-1:]:
                    child.kill()

        found = ask(package, timeout_s=CEILING_SECONDS, on_progress=kill)
        assert found.outcome == "crashed"
        assert "Firefox went away" in str(found.error)
