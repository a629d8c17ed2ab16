"""Command output in README.md and docs/results.md: what the commands between the markers print.

<!-- generated: invoke --list -->
```text
…
```
<!-- end -->
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError

BLOCK = re.compile(r"<!-- generated: (?P<words>[^\n]*) -->\n.*?<!-- end -->", re.DOTALL)
PAGES = (paths.REPOSITORY / "README.md", paths.REPOSITORY / "docs" / "results.md")


def blocks(page: Path = PAGES[0]) -> dict[str, str]:
    """Command → what the page shows for it now."""
    text = page.read_text(encoding="utf-8")
    return {match["words"]: match.group(0) for match in BLOCK.finditer(text)}


def render(words: str) -> str:
    """The block for one command, its standard output in a fence; UserError if the command fails."""
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
    return f"<!-- generated: {words} -->\n```text\n{lines}\n```\n<!-- end -->"


def renew() -> list[str]:
    """Run every command again and write the pages; the commands that were run."""
    done = []
    for page in PAGES:
        for words, shown in blocks(page).items():
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(shown, render(words)), encoding="utf-8")
            done.append(words)
    return done
