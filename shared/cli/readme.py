"""Command output in README.md and docs/: what the commands between the markers print.

<!-- generated: invoke --list -->
```text
…
```
<!-- end -->

`generated Markdown:` in place of `generated:` has it without the fence.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError

BLOCK = re.compile(
    r"<!-- (?P<form>generated(?: Markdown)?): (?P<words>[^\n]*) -->\n.*?<!-- end -->", re.DOTALL
)
FENCED = "generated"
RELEASED = paths.REPOSITORY / "docs" / "results.md"
"""Its blocks take a release of minutes; those of other pages take seconds, and a test renews them."""


def pages() -> list[Path]:
    """README.md, and the pages of docs/ that have a block."""
    every = [paths.REPOSITORY / "README.md", *sorted((paths.REPOSITORY / "docs").glob("*.md"))]
    return [page for page in every if BLOCK.search(page.read_text(encoding="utf-8"))]


def blocks(page: Path) -> dict[tuple[str, str], str]:
    """Form and command → what the page shows for it now."""
    text = page.read_text(encoding="utf-8")
    return {(match["form"], match["words"]): match.group(0) for match in BLOCK.finditer(text)}


def render(form: str, words: str) -> str:
    """The block for one command, with what it prints on stdout; UserError if the command fails."""
    program = Path(sys.executable).with_name(words.split()[0])
    run = subprocess.run(
        [str(program), *words.split()[1:]],
        cwd=paths.REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "100"},
    )
    if run.returncode != 0:
        raise UserError(f"`{words}` ended with {run.returncode}")
    lines = "\n".join(line.rstrip() for line in run.stdout.strip("\n").splitlines())
    shown = f"```text\n{lines}\n```" if form == FENCED else f"\n{lines}\n"
    return f"<!-- {form}: {words} -->\n{shown}\n<!-- end -->"


def renew(of: list[Path] | None = None) -> list[str]:
    """Run every command again and write the pages, all or those; the commands that were run."""
    done = []
    for page in of or pages():
        for (form, words), shown in blocks(page).items():
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(shown, render(form, words)), encoding="utf-8")
            done.append(words)
    return done
