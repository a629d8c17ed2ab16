"""The page's manifest.json: the models to choose from, each with its prompt and an example.

The server of `serve` makes it on request; in a site it is a file. The page is the same in both.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.manifest import FileRecord
from shared.base.text import trimmed
from shared.domain.grammar.schema import grammar
from shared.olive.family_record import DOMAIN_FILES, RECORD, FamilyRecord, adapter_file, read_family

MANIFEST = "manifest.json"
HUB = "https://huggingface.co"
"""The public one."""
READ = (
    *("config.json", "generation_config.json", "genai_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)
"""What the page reads of a package beside onnx/, where it is there."""


def page_manifest(
    models: Sequence[dict[str, Any]],
    *,
    worker: str | None = None,
    files: Sequence[str] = (),
    hub: str = HUB,
) -> dict[str, Any]:
    """What the page reads first. `worker`: the service worker of a site; `files`: all that it keeps;
    `hub`: where a model with a `revision` is fetched from."""
    return {
        "version": 1,
        "worker": worker,
        "hub": hub,
        "files": list(files),
        "models": list(models),
    }


def listing(models: dict[str, Path]) -> list[dict[str, Any]]:
    """One entry a model, or one a domain where it is a family's folder. The domain of a model is the
    folder in domains/ of its own name, if any."""
    found = (
        family_entries(name, path) if (path / RECORD).is_file() else [entry(name, path)]
        for name, path in models.items()
    )
    return [one for entries in found for one in entries]


def entry(name: str, package: Path, model: str = "", revision: str | None = None) -> dict[str, Any]:
    """What the page knows of a package. `model`: its folder below models/, by default its name; with a
    `revision`, its repository on the Hub at that commit. `files`: what a release is known to hold."""
    domain, release = paths.domains() / name, _json(_text(package / "release.json"))
    example = release["example"] if "example" in release else _first_input(domain)
    files = {p.name: p.stat().st_size for p in (package / "onnx").glob("model_*") if p.is_file()}
    return {
        "name": name,
        "model": model or name,
        "revision": revision,
        "system_prompt": trimmed(_own_or(domain, package, "prompt.md")).replace("{domain}", name),
        "grammar": _text(package / "grammar.ebnf") or _grammar(domain / "schema.json"),
        "schema": _json(_own_or(domain, package, "schema.json")),
        "base": release.get("base"),
        "example": example,
        "max_new_tokens": release.get("facts", {}).get("answers", {}).get("max_new_tokens"),
        "bytes": _sizes({f"onnx/{name}": size for name, size in files.items()}),
        "files": _kept(release.get("files", {})),
    }


def family_entries(
    name: str, folder: Path, model: str = "", revision: str | None = None
) -> list[dict[str, Any]]:
    """An entry for each domain of a family: the base's files are in all, an `adapter` in each."""
    record = read_family(folder)
    released = _json(_text(folder / RECORD)).get("domains", {})  # of a build none are
    return [
        {
            "name": f"{name}/{domain}",
            "family": name,
            "domain": domain,
            "model": model or name,
            "revision": revision,
            **_asked_with(folder / "domains" / domain),
            "base": record.base,
            "max_new_tokens": released.get(domain, {}).get("max_new_tokens"),
            **_shared(record),
            "adapter": {"file": adapter_file(domain)} | _told(adapter.files[adapter_file(domain)]),
        }
        for domain, adapter in record.adapters.items()
    ]


def _asked_with(folder: Path) -> dict[str, Any]:
    prompt, schema, grammar, example = (_text(folder / name) for name in DOMAIN_FILES)
    return {
        "system_prompt": trimmed(prompt),
        "grammar": grammar,
        "schema": _json(schema),
        "example": example,
    }


def _shared(record: FamilyRecord) -> dict[str, Any]:
    """Files and sizes of what a page takes of a base: its data, and not its own graph."""
    swapped = ("onnx/model_q4f16.onnx", "onnx/model_q4.onnx")
    files = {name: _told(file) for name, file in record.shared.items() if name not in swapped}
    return {
        "bytes": _sizes({name: file["bytes"] for name, file in files.items()}),
        "files": _kept(files),
    }


def _told(file: FileRecord) -> dict[str, Any]:
    return {"sha256": file.sha256, "bytes": file.bytes}


def _kept(files: Mapping[str, Any]) -> dict[str, Any]:
    return {n: file for n, file in files.items() if n in READ or n.startswith("onnx/")}


def _sizes(files: Mapping[str, int]) -> dict[str, int]:
    """Bytes by numeric type of the graphs and data among these files."""
    sizes = {
        dtype: sum(size for name, size in files.items() if f"_{dtype}.onnx" in name)
        for dtype in ("q4f16", "q4")
    }
    return {dtype: size for dtype, size in sizes.items() if size}


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
