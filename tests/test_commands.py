"""The commands as a person types them: help that teaches, one clear sentence, trusted exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base import paths
from shared.cli.readme import blocks, render
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
    *("release", "release-all", "build", "check", "bench", "bench-all", "bench-build", "card"),
    *("bench-scaling", "publish", "publish-collection", "verify", "domains", "status", "doctor"),
    *("serve", "clean", "test", "lint", "preflight", "fidelity", "compare", "show", "tune"),
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

    @pytest.mark.parametrize(
        "words",
        ["invoke --list", "invoke domains", "python -m benchmarks.architectures --built"],
    )
    def test_in_the_readme_is_what_the_command_prints(self, words: str) -> None:
        assert blocks()[words] == render(words), "run `./inv readme`"


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


class TestStatus:
    def test_before_any_release_says_so(self, root: Path) -> None:
        run = invoke("status", root=root)
        assert run.returncode == 0
        assert "not measured" in run.stdout and "run `./inv release` first" in run.stdout

    def test_after_a_walk_that_took_no_rung_says_failed(self, root: Path) -> None:
        invoke("release", "--domain", "legal", "--rung", "smollm3", root=root)
        printed = invoke("status", root=root).stdout
        assert "failed" in printed and "no rung could be taken" in printed
