"""The commands that README.md and docs/ show, and how each of README.md's is run by a test."""

from __future__ import annotations

import re
from pathlib import Path

from shared.base import paths
from shared.cli.readme import BLOCK

README = paths.REPOSITORY / "README.md"
PROGRAMS = ("./inv", "inv", "invoke")
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[.*?\]")
INLINE = re.compile(r"`((?:\./inv|invoke|\.venv/bin/hf) [^`]+)`")

QUICK = {
    "./inv --list": 0,
    "./inv release -h": 0,
    "./inv release --domain legal --dry-run": 0,
    "./inv doctor": 0,
    "./inv doctor --domain legal": 0,
    "./inv doctor --domain tax": 0,
    "./inv status": 0,
    "./inv status --domain legal": 0,
    "./inv clean": 0,
    ".venv/bin/hf auth login": 0,
    ".venv/bin/hf auth whoami": 0,
}
"""Command → exit code, in a world without weights or a release: tests/test_readme.py."""
RELEASED = {
    "./inv serve --domain contracts": 0,
    "./inv site --out site": 0,
    "./inv show --domain legal --id <record>": 0,
    "./inv check --domain legal --records all": 0,
    "./inv bench --domain legal": 0,
    "./inv publish --domain legal --org acme --dry-run": 1,
}
"""The same in a world where the embedded model was released as legal: tests/test_release.py."""
ELSEWHERE = {
    "./inv release --domain contracts": (
        "test_example_adapters.py::test_is_taken_where_nobody_brought_a_model"
    ),
    "invoke release --domain contracts": (
        "test_bare_invoke.py::test_a_command_goes_on_in_the_environment_of_inv"
    ),
    "cp -r domains/legal domains/tax": "test_readme.py::tax",
    "./inv release --domain tax": "test_release.py::test_a_copied_folder_is_a_new_domain",
    "./inv publish --domain legal --org acme": (
        "test_publish_and_verify.py::test_gets_a_card_that_names_its_own_repository"
    ),
    "./inv publish-space": (
        "test_publish_space.py::test_plans_then_publishes_the_whole_page_and_names_its_address"
    ),
    "./inv verify acme/docintel-legal-smollm3-3b-webgpu@v1": (
        "test_publish_and_verify.py::test_what_is_published_is_verified_by_its_name_and_signature"
    ),
}
"""Command → the test, or the fixture of tests, that runs it."""


def shown_commands(page: Path) -> list[str]:
    """Once each: lines of its shell blocks, and what begins so in a text.

    What is generated, and a picture's name, is left out.
    """
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    text = PICTURE.sub("", text).replace("\n--", " --")
    lines = [line for block in SHELL.findall(text) for line in _lines(block)]
    return list(dict.fromkeys([*lines, *(_words(found) for found in INLINE.findall(text))]))


def _lines(block: str) -> list[str]:
    joined = block.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := _words(line))]


def _words(line: str) -> str:
    """Without its comment, single spaces."""
    return " ".join(re.sub(r"(^|\s)#.*", "", line).split())
