"""The page's manifest.json: the models to choose from, each with its prompt and an example.

The server of `serve` makes it on request; in a site it is a file. The page is the same in both.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.text import trimmed
from shared.domain.grammar.schema import grammar

MANIFEST = "manifest.json"
HUB = "https://huggingface.co"
"""Where a model with a `revision` is fetched from."""


def page_manifest(
    models: Sequence[dict[str, Any]], *, worker: str | None = None, files: Sequence[str] = ()
) -> dict[str, Any]:
    """What the page reads first. `worker`: the service worker of a site; `files`: all that it keeps."""
    return {
        "version": 1,
        "worker": worker,
        "hub": HUB,
        "files": list(files),
        "models": list(models),
    }


def listing(models: dict[str, Path]) -> list[dict[str, Any]]:
    """One entry a model. The domain is the folder in domains/ of the model's own name, if any."""
    return [entry(name, path) for name, path in models.items()]


def entry(name: str, package: Path, model: str = "", revision: str | None = None) -> dict[str, Any]:
    """What the page knows of a package. `model`: its folder below models/, by default its name; with a
    `revision`, its repository on the Hub at that commit."""
    domain, release = paths.domains() / name, _json(_text(package / "release.json"))
    example = release["example"] if "example" in release else _first_input(domain)
    files = {p.name: p.stat().st_size for p in (package / "onnx").glob("model_*") if p.is_file()}
    sizes = {
        dtype: sum(size for file, size in files.items() if file.startswith(f"model_{dtype}.onnx"))
        for dtype in ("q4f16", "q4")
    }
    return {
        "name": name,
        "model": model or name,
        "revision": revision,
        "system_prompt": trimmed(_own_or(domain, package, "prompt.md")).replace("{domain}", name),
        "grammar": _text(package / "grammar.ebnf") or _grammar(domain / "schema.json"),
        "schema": _json(_own_or(domain, package, "schema.json")),
        "base": release.get("base"),
        "example": example,
        "bytes": {dtype: size for dtype, size in sizes.items() if size},
    }


def _own_or(domain: Path, package: Path, name: str) -> str:
    """The release carries its own prompt; a package that is none has its domain's."""
    return _text(package / name) or _text(domain / name)


def _grammar(schema: Path) -> str:
    try:
        return grammar(json.loads(_text(schema)))
    except (ValueError, UserError):
        return ""


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _first_input(domain: Path) -> str:
    try:
        return str(json.loads(_text(domain / "eval.jsonl").split("\n")[0])["input"])
    except (IndexError, KeyError, ValueError):
        return ""
