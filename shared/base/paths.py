"""Where things lie, relative to the repository; tests point `root` at a folder of their own."""

import os
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def root() -> Path:
    """The folder that holds domains/, models/ and build/: DOCINTEL_ROOT, else the repository."""
    return Path(os.environ.get("DOCINTEL_ROOT") or REPOSITORY)


def domains() -> Path:
    return root() / "domains"


def models(domain: str) -> Path:
    return root() / "models" / domain


def build() -> Path:
    return root() / "build"


def shown(path: Path) -> str:
    """`path` as a person would type it: relative to the root where it lies inside, else to the home
    folder, whose own name is nobody's business: a card may quote it."""
    try:
        return str(path.relative_to(root()))
    except ValueError:
        return without_home(str(path))


def without_home(text: str) -> str:
    """`text` with ~ in the place of the home folder of whoever runs this."""
    try:
        home = str(Path.home())
    except RuntimeError:  # nobody knows it
        return text
    if len(home) < 2:
        return text
    return re.sub(rf"(?<![\w/.-]){re.escape(home)}(?![\w.-])", "~", text)
