"""What the person's page may choose from: each model with its domain's prompt and an example."""

import json
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.text import trimmed
from shared.domain.grammar.schema import grammar


def listing(models: dict[str, Path]) -> list[dict[str, Any]]:
    """One entry a model. The domain is the folder in domains/ of the model's own name, if any."""
    return [_entry(name, path) for name, path in models.items()]


def _entry(name: str, package: Path) -> dict[str, Any]:
    domain = paths.domains() / name
    files = {p.name: p.stat().st_size for p in (package / "onnx").glob("model_*") if p.is_file()}
    sizes = {
        dtype: sum(size for file, size in files.items() if file.startswith(f"model_{dtype}.onnx"))
        for dtype in ("q4f16", "q4")
    }
    return {
        "name": name,
        "system_prompt": trimmed(_own_or(domain, package, "prompt.md")).replace("{domain}", name),
        "grammar": _text(package / "grammar.ebnf") or _grammar(domain / "schema.json"),
        "schema": _json(_own_or(domain, package, "schema.json")),
        "base": _json(_text(package / "release.json")).get("base"),
        "example": _first_input(_text(domain / "eval.jsonl")),
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


def _first_input(lines: str) -> str:
    try:
        return str(json.loads(lines.split("\n")[0])["input"])
    except (IndexError, KeyError, ValueError):
        return ""
