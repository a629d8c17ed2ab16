"""The commands as a person types them: help that teaches, one clear sentence, trusted exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks
from shared.base import paths, progress
from shared.base.tables import table
from shared.cli.program import Program
from shared.setup import doctor
from shared.webgpu_bench.server import HOST, free_or_any
from tests.hub_double import HubDouble

Edit = Callable[[str, str, str], int]


def invoke(
    *words: str, root: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run invoke in the repository, on the world at `root`, without the Hub."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "220"} | variables
    if root:
        environment["DOCINTEL_ROOT"] = str(root)
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        cwd=paths.REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


COMMANDS = [
    *(
        "release",
        "release-all",
        "release-family",
        "build",
        "check",
        "bench",
        "bench-all",
        "dev.bench-build",
        "card",
    ),
    *(
        "dev.bench-scaling",
        "publish",
        "publish-collection",
        "publish-space",
        "release-family",
        "verify",
        "domains",
        "status",
        "doctor",
    ),
    *(
        "serve",
        "site",
        "clean",
        "test",
        "dev.lint",
        "preflight",
        "fidelity",
        "compare",
        "show",
        "tune",
    ),
]


class TestHelp:
    def test_lists_every_command_with_one_line(self) -> None:
        listed = invoke("--list").stdout
        for name in COMMANDS:
            line = next(ln for ln in listed.splitlines() if ln.split()[:1] == [name])
            assert len(line.split()) > 3, name

    @pytest.mark.parametrize("name", ["release", "check", "bench"])
    def test_explains_every_option(self, name: str) -> None:
        text = invoke("--help", name).stdout
        assert "--domain" in text and "--rung" in text and "fallback.toml" in text

    def test_of_domains_leads_to_what_holds_for_one(self, root: Path) -> None:
        assert "--domain" in invoke("--help", "domains").stdout
        shown = invoke("domains", "--domain", "legal", root=root).stdout
        assert re.search(r"^records = 32 +# domains/defaults\.toml:\d+$", shown, re.MULTILINE)

    def test_offers_to_read_the_weights_again(self) -> None:
        assert "--rehash" in invoke("--help", "release-all").stdout

    def test_is_what_a_command_with_help_behind_it_prints(self) -> None:
        assert invoke("check", "--help").stdout == invoke("--help", "check").stdout != ""


def fails(root: Path, *words: str) -> str:
    """The one sentence on stderr of a command that must fail with exit code 1."""
    run = invoke(*words, root=root)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.strip().splitlines()[-1]


class TestBadInputIsOneSentence:
    def test_for_a_domain_that_does_not_exist(self, root: Path) -> None:
        sentence = fails(root, "release", "--domain", "nope")
        assert sentence == "error: domains/nope: no such domain; valid are: legal"

    def test_for_an_unknown_key(self, root: Path, edit: Edit) -> None:
        line = edit("../defaults.toml", "[bench]", "[bensh]")
        assert f"domains/defaults.toml:{line}: bensh: unknown key; did you mean 'bench'?" in fails(
            root, "release", "--domain", "legal"
        )

    def test_for_a_syntax_error_in_olive_json(self, root: Path, edit: Edit) -> None:
        edit("olive.json", '"passes"', "passes")
        assert "error: domains/legal/olive.json: not valid JSON: Expecting property name" in fails(
            root, "release", "--domain", "legal"
        )

    def test_for_a_hub_rung_while_offline(self, root: Path) -> None:
        words = ("release", "--domain", "legal", "--rung", "base-with-prompt")
        with HubDouble() as hub:
            run = invoke(*words, root=root, HF_ENDPOINT=hub.url)
        assert run.returncode == 1 and not hub.requests
        assert "HF_HUB_OFFLINE" in run.stdout
        assert "Traceback" not in run.stderr

    def test_for_pickled_weights(self, root: Path) -> None:
        merged = root / "models" / "legal" / "merged"
        merged.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.bin"):
            (merged / name).write_text("{}")
        run = invoke("release", "--domain", "legal", "--rung", "smollm3", root=root)
        assert run.returncode == 1
        assert "only model.bin, which can run code when read" in run.stdout

    def test_for_publishing_what_was_never_released(self, root: Path) -> None:
        assert "models/legal/webgpu/release.json: missing; run `./inv release`" in fails(
            root, "publish", "--domain", "legal"
        )

    def test_for_serving_nothing(self, root: Path) -> None:
        assert "nothing is released yet" in fails(root, "serve")


OVER = ("--domain", "legal", "--rung", "smollm3")
ENDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "domains": (0, ()),
    "status": (0, ()),
    "doctor": (0, ()),
    "release": (0, ("--domain", "legal", "--dry-run")),
    "release-all": (0, ("--dry-run",)),
    "release-family": (1, ("--dry-run",)),
    "bench": (1, OVER),
    "bench-all": (1, ("--rung", "smollm3")),
    "build": (1, OVER),
    "check": (1, OVER),
    "compare": (1, ("legal", "medical")),
    "fidelity": (1, OVER),
    "preflight": (1, ("--folder", "nowhere")),
    "publish": (1, ("--domain", "legal")),
    "publish-collection": (1, ()),
    "publish-space": (1, ()),
    "show": (1, ("--domain", "legal")),
    "site": (1, ("--out", "nowhere")),
    "tune": (1, OVER),
    "verify": (1, ("nowhere",)),
}
"""Every command that prints a table, in a world without weights or a release: exit code, words."""


@pytest.fixture
def typed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Exit code, stdout and stderr of a command, in this process, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(progress.console, "quiet", False)  # --quiet ends with the test
    monkeypatch.setattr(doctor, "check", lambda: [doctor.Finding("GPU", "warn", "none " * 30)])

    def run(*words: str) -> tuple[int, str, str]:
        try:
            Program(tasks.namespace).run(["invoke", *words])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


Typed = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", ENDS)
class TestEveryTable:
    def test_is_one_json_object_alone_on_stdout(self, name: str, typed: Typed) -> None:
        wanted, words = ENDS[name]
        code, out, err = typed(name, *words, "--json")
        shown = json.loads(out)
        assert (code, shown["command"], bool(shown["error"])) == (wanted, name, wanted == 1)
        assert shown["error"] is None or f"error: {shown['error']}" in err
        assert "│" not in out and "Traceback" not in err

    def test_fits_80_columns_without_colour(self, name: str, typed: Typed) -> None:
        wanted, words = ENDS[name]
        code, out, err = typed(name, *words, "--quiet")
        assert code == wanted and "\x1b" not in out + err
        assert [line for line in out.splitlines() if len(line) > 80 and "│" in line] == []
        assert len(err.splitlines()) == code or "mistakes" in err  # quiet but for the sentence


@pytest.mark.parametrize("name", COMMANDS)
def test_h_is_help_of_every_command_and_no_other_short_flag_is_made_up(
    name: str, typed: Typed
) -> None:
    code, out, _ = typed(name, "-h")
    assert code == 0 and out.startswith(f"Usage: inv [--core-opts] {name} ")
    assert set(re.findall(r"^  (-\w)\b", out, re.MULTILINE)) <= {"-a", "-b", "-k"}
    assert ("--json" in out) == (name in ENDS or name == "dev.bench-build")


class TestTables:
    def test_wrap_between_words_or_are_turned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        words, one = "some words " * 9, "unbroken-" * 2
        for heads, row in ((("a", "b"), (words, words)), (tuple("abcdef"), (one,) * 6)):
            drawn = table(heads, [row], "rounded_outline")
            assert max(map(len, drawn.splitlines())) <= 60
            assert all(text.strip() in drawn for text in row if text == one)

    def test_are_lists_where_a_word_does_not_fit_since_it_would_be_cut(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "60")
        address = "https://huggingface.co/" + "x" * 60
        drawn = table(
            ("domain", "where"), [("legal", address), ("tax", address)], "rounded_outline"
        )
        assert drawn.count(address) == 2 and "│" not in drawn
        assert drawn.split("\n\n")[1].splitlines()[0].split() == ["domain", "tax"]


def test_a_reader_that_is_gone_ends_it_without_a_word() -> None:
    command = [sys.executable, "-m", "invoke", "--list"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, cwd=paths.REPOSITORY, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is always full")
def test_a_full_disk_under_stdout_is_one_sentence() -> None:
    command = [sys.executable, "-m", "invoke", "--list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=paths.REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space" in done.stderr


def test_a_terminal_that_is_not_utf8_gets_what_it_can_show() -> None:
    command, odd = [sys.executable, "-m", "invoke", "domains"], {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, cwd=paths.REPOSITORY, capture_output=True, text=True, env=os.environ | odd
    )
    assert done.returncode == 0 and "legal" in done.stdout


def test_a_command_runs_once_and_its_errors_are_quiet_on_ctrl_c(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = typed("domains")
    assert code == 0 and out.count("legal") == 1
    run = invoke("domains")
    assert run.returncode == 0 and run.stdout.count("│ legal ") == 1

    def interrupted() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("shared.domain.domain.domain_names", interrupted)
    code, _, err = typed("domains")
    assert (code, err) == (130, "interrupted; run the same command again to go on\n")


def test_the_version_is_ours() -> None:
    command = [sys.executable, "tasks.py", "--version"]
    done = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True)
    assert done.stdout.startswith("docintel ")


class TestStatus:
    def test_before_any_release_says_so(self, root: Path) -> None:
        run = invoke("status", root=root)
        assert run.returncode == 0
        assert "not measured" in run.stdout and "run `./inv release` first" in run.stdout

    def test_after_a_walk_that_took_no_rung_says_failed(self, root: Path) -> None:
        invoke("release", "--domain", "legal", "--rung", "smollm3", root=root)
        printed = invoke("status", root=root).stdout
        assert "failed" in printed and "no rung could be taken" in printed


def test_clean_empties_a_build_that_is_a_link_to_another_disk(root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "stage").mkdir(parents=True)
    shutil.rmtree(root / "build", ignore_errors=True)
    (root / "build").symlink_to(tmp_path / "disk")
    assert invoke("clean", root=root).returncode == 0
    assert (root / "build").is_dir() and not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("release", "--domain", "legal", "--without-gpu"), "--without-gpu: does nothing without"),
        (("release-all", "--org", "acme"), "--org: does nothing without --publish"),
        (("release-all", "--memory-budget", "8GB"), "--memory-budget: does nothing without --jobs"),
        (
            ("release-all", "--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"),
            "--jobs: with --sched",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    root: Path, words: tuple[str, ...], why: str
) -> None:
    done = invoke(*words, root=root)
    assert done.returncode == 1 and why in done.stderr


def test_a_port_that_somebody_has_gives_way_to_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_or_any(port) == 0
    assert free_or_any(port) == port
