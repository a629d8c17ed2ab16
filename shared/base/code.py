"""Whether the code changed: one hash over the modules of shared/ that a result depends on.

>>> code_hash("shared.webgpu_bench.stage", "shared/webgpu_bench/page")
'5f0c…'

A module counts with all that it imports from shared/, inside functions as well, and with the files
beside it that it names (scripts, tables). Comments, docstrings and layout do not count.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from shared.base import paths
from shared.base.hashing import files_below, sha256_files, sha256_json

INFRASTRUCTURE = {
    "shared.base.apart": "in which process, not what is made there",
    "shared.base.code": "what it hashes is the key itself",
    "shared.base.cpu": "how many threads, and every result is the same with any number of them",
    "shared.base.errors": "sentences for people; an error leaves no result",
    "shared.base.files": "how a file is put in its place, not what it holds",
    "shared.base.hashing": "what it hashes is the key itself",
    "shared.base.lock": "who may write, not what is written",
    "shared.base.manifest": "a manifest of another form is not read, and its stage is done again",
    "shared.base.paths": "where things lie",
    "shared.base.processes": "the memory and the end of processes, not what they make",
    "shared.base.progress": "what is printed meanwhile",
    "shared.base.stage": "how a result is made once and kept",
    "shared.hub": "the SHA-256 of all that it fetches is in the key",
}
"""Modules and packages that cannot change a result, with the reason; they are not followed."""


def code_hash(*roots: str) -> str:
    """SHA-256 over what the roots lead to: modules by dotted name, files and folders by path."""
    return sha256_json(covered(*roots))


def covered(*roots: str) -> dict[str, str]:
    """Every module and file that the roots lead to, each with its SHA-256."""
    return _covered(paths.REPOSITORY, roots)


@cache
def _covered(repository: Path, roots: tuple[str, ...]) -> dict[str, str]:
    known = modules(repository)
    by_path = {path: name for name, path in known.items()}
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        if path := known.get(name):
            found[name] = _parsed(path)[0]
            waiting += [m for m in imports(path, known) if not is_infrastructure(m)]
            waiting += [
                by_path.get(file) or str(file.relative_to(repository))
                for file in _named_files(path)
            ]
        else:
            path = repository / name
            files = files_below(path) if path.is_dir() else [""]
            found[name] = sha256_json(sha256_files(path, files))
    return found


def is_infrastructure(module: str) -> bool:
    """Whether the module, or a package that it lies in, is in INFRASTRUCTURE."""
    return any(f"{module}.".startswith(f"{name}.") for name in INFRASTRUCTURE)


@cache
def modules(repository: Path) -> dict[str, Path]:
    """Every module of shared/ by its dotted name."""
    found = [p for p in (repository / "shared").rglob("*.py") if "node_modules" not in p.parts]
    named = {".".join(p.relative_to(repository).with_suffix("").parts): p for p in sorted(found)}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Which of the `known` modules a file imports, in functions and under TYPE_CHECKING as well."""
    return _parsed(path)[1] & known.keys()


def _named_files(path: Path) -> list[Path]:
    """The files beside a module that it names: it runs or reads them."""
    return [p for p in path.parent.iterdir() if p.name in _parsed(path)[2] and p.is_file()]


@cache
def _parsed(path: Path) -> tuple[str, set[str], set[str]]:
    """A module's SHA-256 without its words, the names that it imports, and its texts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names, texts = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        for block in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
            if isinstance(block, list):
                block[:] = [statement for statement in block if not _is_words(statement)]
    normal = ast.dump(tree).replace(", type_params=[]", "")  # which Python 3.12 adds to 3.11's
    return hashlib.sha256(normal.encode()).hexdigest(), names, texts


def _is_words(statement: ast.stmt) -> bool:
    """Whether it is a docstring, of a constant as well."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
