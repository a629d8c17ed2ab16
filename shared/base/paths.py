"""Where things lie, relative to the repository; tests point `root` at a folder of their own."""

import os
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
    """`path` as a person would type it: relative to the root where it lies inside."""
    try:
        return str(path.relative_to(root()))
    except ValueError:
        return str(path)
