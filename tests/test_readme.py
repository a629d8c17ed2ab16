"""README.md and docs/: what they show is current, what they say to type is typed by a test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from invoke import ParseError

import tasks
from shared.base import paths
from shared.cli.program import Program
from shared.cli.readme import RELEASED as NEEDS_A_RELEASE
from shared.cli.readme import blocks, pages, render
from shared.domain.domain import domain_names
from tests.readme import ELSEWHERE, PROGRAMS, QUICK, README, RELEASED, shown_commands
from tests.test_commands import Typed, typed

__all__ = ["typed"]  # a fixture
DOCS = sorted((paths.REPOSITORY / "docs").glob("*.md"))
PAGES = [README, *DOCS, paths.REPOSITORY / "CONTRIBUTING.md"]
SHOWN = [(page, key) for page in pages() if page != NEEDS_A_RELEASE for key in blocks(page)]
TYPED = sorted(
    {word for page in PAGES for word in shown_commands(page) if word.split()[0] in PROGRAMS}
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize(("page", "block"), SHOWN, ids=lambda value: str(value)[-40:])
def test_what_a_page_shows_is_what_the_command_prints(page: Path, block: tuple[str, str]) -> None:
    assert blocks(page)[block] == render(*block), "run `./inv dev.readme`"


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    tried = [*QUICK, *RELEASED, *ELSEWHERE]
    assert sorted(shown_commands(README)) == sorted(tried), "tests/readme.py lists them"
    for words, test in ELSEWHERE.items():
        file, _, name = test.partition("::")
        code = (paths.REPOSITORY / "tests" / file).read_text(encoding="utf-8")
        assert f"def {name}(" in code, words


@pytest.fixture
def tax(root: Path) -> Path:
    """`cp -r domains/legal domains/tax`, as the README says."""
    shutil.copytree(root / "domains" / "legal", root / "domains" / "tax")
    return root


@pytest.mark.parametrize("words", QUICK)
def test_ends_as_the_readme_says(words: str, tax: Path, typed: Typed) -> None:
    program, *others = words.split()
    if program.endswith("/hf"):
        command = [str(Path(sys.executable).with_name("hf")), *others, "--help"]
        assert subprocess.run(command, capture_output=True).returncode == QUICK[words]
        return
    code, out, err = typed(*others)
    assert code == QUICK[words], out + err


@pytest.mark.parametrize("words", TYPED)
def test_every_page_names_commands_switches_and_domains_that_there_are(words: str) -> None:
    named = [word for word in words.split()[1:] if word not in ("-h", "--list")]
    program = Program(tasks.namespace)
    program.create_config()
    program.parse_core(["inv", *named])
    program.parse_collection()
    try:
        program.parse_tasks()
    except ParseError as error:  # a mention: `./inv bench`
        assert "did not receive required" in str(error)
        return
    for task in program.tasks:
        domain = task.args["domain"].value if "domain" in task.args else ""
        valid = {"", "tax", "all", *domain_names()}
        assert domain.startswith("<") or {*domain.split(",")} <= valid


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_it_is_read_in_five_minutes() -> None:
    """At 240 words a minute."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    prose = re.sub(
        r"```.*?```|<!-- .*? -->|^[>|].*?$|\(\S+\)", "", text, flags=re.DOTALL | re.MULTILINE
    )
    assert len(prose.split()) <= 5 * 240


def test_the_failures_it_tells_of_are_said_in_these_words() -> None:
    rows = re.findall(r"^\| `([^`]+)`", README.read_text(encoding="utf-8"), re.MULTILINE)
    code = [*(paths.REPOSITORY / "shared").rglob("*.py"), paths.REPOSITORY / "inv"]
    said = "\n".join(path.read_text(encoding="utf-8") for path in code)
    assert len(rows) >= 4 and [row for row in rows if row not in said] == []
