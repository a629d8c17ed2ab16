"""Command output in README.md: run the commands between the markers and put in what they print.

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
README = paths.REPOSITORY / "README.md"


def blocks() -> dict[str, str]:
    """Command → what README.md shows for it now."""
    text = README.read_text(encoding="utf-8")
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
        raise UserError(f"README.md: `{words}` ended with {run.returncode}")
    lines = "\n".join(line.rstrip() for line in run.stdout.strip("\n").splitlines())
    return f"<!-- generated: {words} -->\n```text\n{lines}\n```\n<!-- end -->"


def renew() -> list[str]:
    """Run every command again and write README.md; the commands that were run."""
    text = README.read_text(encoding="utf-8")
    commands = list(blocks())
    for words in commands:
        text = text.replace(blocks()[words], render(words))
    README.write_text(text, encoding="utf-8")
    return commands
