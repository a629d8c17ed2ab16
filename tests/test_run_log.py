"""The log of a run: all that it said, the traceback of a defect, no token, and named when it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths, progress
from shared.base.cpu import VARIABLES
from shared.base.errors import UserError
from shared.pipeline import one_domain
from shared.pipeline.run_log import KEPT, run_log
from tests.test_commands import Typed, typed

__all__ = ["typed"]
BUILD = ("build", "--domain", "legal", "--rung", "smollm3")
TOKEN = "hf_" + "a" * 34
Doing = Callable[..., Any]


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Doing], None]:
    """`doing(f)`: what `build` does is to call f."""
    return lambda body: monkeypatch.setattr(one_domain, "run_until", lambda *_: body())


def logs(root: Path) -> list[Path]:
    return sorted((root / "build" / "logs").glob("*"))


def said_and_refused() -> None:
    progress.say("[1/10] a line")
    with progress.bar("quantise", 3, "weights") as step:
        step("one")
    raise UserError("domains/legal/olive.json: passes: something is wrong")


def defect() -> None:
    raise KeyError(f"no such weight, says {TOKEN}")


class TestARun:
    @pytest.mark.parametrize("more", [(), ("--quiet",), ("--json",)])
    def test_that_fails_names_its_log_in_its_last_line(
        self, more: tuple[str, ...], root: Path, typed: Typed, doing: Callable[[Doing], None]
    ) -> None:
        doing(said_and_refused)
        code, _, err = typed(*BUILD, *more)
        (log,) = logs(root)
        assert code == 1 and log.match("*-build-*.log")
        assert err.splitlines()[-1] == (
            "error: domains/legal/olive.json: passes: something is wrong "
            f"(log: build/logs/{log.name})"
        )
        text = log.read_text("utf-8")
        assert "[1/10] a line" in text and "passes: something is wrong" in text

    def test_with_a_defect_says_it_in_a_sentence_and_logs_the_traceback_without_tokens(
        self, root: Path, typed: Typed, doing: Callable[[Doing], None]
    ) -> None:
        doing(defect)
        code, out, err = typed(*BUILD)
        (log,) = logs(root)
        text = log.read_text("utf-8")
        assert code == 1 and err.startswith("error: a defect of ours: KeyError: ")
        assert err.count("\n") == 1 and err.endswith(f"(log: build/logs/{log.name})\n")
        assert "Traceback" in text and "in defect" in text
        assert TOKEN not in text + out + err and "hf_***" in text

    def test_that_finds_a_mistake_before_it_says_anything_leaves_none(
        self, root: Path, typed: Typed
    ) -> None:
        code, _, err = typed("build", "--domain", "nope")
        assert (code, err) == (1, "error: domains/nope: no such domain; valid are: legal\n")
        assert not (root / "build").exists()

    @pytest.mark.parametrize("words", [("status",), ("release", "--domain", "legal", "--dry-run")])
    def test_that_only_looks_leaves_none(
        self, words: tuple[str, ...], root: Path, typed: Typed
    ) -> None:
        assert typed(*words)[0] == 0 and logs(root) == []

    def test_goes_on_where_no_log_can_be_written(
        self, root: Path, typed: Typed, doing: Callable[[Doing], None]
    ) -> None:
        (root / "build").mkdir()
        (root / "build" / "logs").write_text("a file in the folder's place")
        doing(said_and_refused)
        code, _, err = typed(*BUILD)
        assert code == 1 and err.endswith("passes: something is wrong\n")


def test_only_the_newest_are_kept(root: Path) -> None:
    folder = root / "build" / "logs"
    folder.mkdir(parents=True)
    for day in range(KEPT + 5):
        (folder / f"2020-01-{day:02}-000000-build-1.log").touch()
    with run_log("check") as log:
        log.add("a line")
    kept = logs(root)
    assert len(kept) == KEPT and kept[-1] == log.file and kept[0].name.startswith("2020-01-06")


def test_a_bar_on_a_terminal_is_logged_as_lines(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECONDS", 0.0)
    with run_log("build") as log, progress.bar("quantise", 3, "weights") as step:
        step("one")
    assert "quantise: 1/3 weights" in log.file.read_text("utf-8")


def test_no_librarys_progress_bar_gets_into_what_is_said() -> None:
    """Each step of one is a line of the log: transformers draws one for the embedded model's GGUF."""
    code = (
        "import shared.base.cpu as c; c.set_variables(); from tqdm.auto import tqdm as t; [*t('a')]"
    )
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=paths.REPOSITORY, env=clean, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    exports = re.findall(r"^export (.*)", (paths.REPOSITORY / "inv").read_text(), re.MULTILINE)
    assert {*re.findall(r"(\w+)=", " ".join(exports))} == {*VARIABLES}
