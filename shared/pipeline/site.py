"""A site: the page, its runtime and released models in one folder that any static host serves.

>>> write_site(Path("site"), ["legal"])
[Placed(domain='legal', base='HuggingFaceTB/SmolLM3-3B', where='models/legal/0123456789abcdef', ...)]

The page is that of `serve`; manifest.json tells it what is different. A model lies below models/ under
its release's key, or is named by its Hub repository at the commit that was published: an address whose
files never change, which is why the service worker (page/sw.js) may keep them.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import link_or_copy, recover, swap_in, write_json
from shared.base.hashing import files_below
from shared.pipeline.publication import read_publication
from shared.release.model import Release, read_release, release_folder
from shared.webgpu_bench.driver import PAGE, VENDOR, require_vendor
from shared.webgpu_bench.model_list import MANIFEST, entry, page_manifest

WORKER = "sw.js"
RUNTIME = (
    "@huggingface/transformers/dist/transformers.web.js",
    "@huggingface/transformers/LICENSE",
    "@mlc-ai/web-xgrammar/lib/index.js",
    "onnxruntime-common/dist/esm/*.js",
    "onnxruntime-web/dist/ort.webgpu.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.*",
)
"""What of the page's packages a person's browser asks for, as patterns below node_modules/."""
SPACE = {
    "title": "DocIntel",
    "emoji": "📄",
    "colorFrom": "green",
    "colorTo": "gray",
    "sdk": "static",
    "app_file": "index.html",
    "pinned": False,
    "short_description": "A text's fields, by a model in your browser",
    "custom_headers": {
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-resource-policy": "cross-origin",
    },
}
"""Front matter of a static Space (hf.co/docs/hub/spaces-config-reference)."""
README = """
# {title}

Paste a text, get its fields as JSON. The model runs in the browser, on WebGPU; no text leaves the
machine. A second visit works offline.

{models}

Any web host serves this folder as it is, under any path, by HTTPS or on localhost:
`python -m http.server`. It was made with DocIntel.
"""


@dataclass(frozen=True)
class Placed:
    """A model of a site: `where` it is fetched from, and what it takes there."""

    domain: str
    base: str
    where: str
    bytes: int
    not_publishable_because: str | None


def write_site(out: Path, domains: Sequence[str], *, hub: bool = False) -> list[Placed]:
    """Write the site of these domains' releases to `out`, whole or not at all; what is in it.

    `hub`: name the models by their repositories instead of copying them. UserError where a domain has
    no release, or none on the Hub, and where `out` holds anything but an earlier site.
    """
    require_vendor()
    releases = {name: read_release(release_folder(name)) for name in domains}
    out = out.resolve()
    need_own(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        made = [_place(partial, name, release, hub) for name, release in releases.items()]
        _fill(partial, [listed for _, listed in made], list(releases.values()))
        swap_in(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [placed for placed, _ in made]


def need_own(out: Path) -> None:
    """UserError unless the folder is missing, empty, or a site that was written before."""
    recover(out)
    if not out.exists() or (out.is_dir() and (is_site(out) or not any(out.iterdir()))):
        return
    raise UserError(f"--out: {out} is there already and is no site of ours; nothing was written")


def is_site(folder: Path) -> bool:
    """Whether its manifest.json is one that `write_site` wrote."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and (found.get("version"), found.get("worker")) == (1, WORKER)


def _place(partial: Path, name: str, release: Release, hub: bool) -> tuple[Placed, dict[str, Any]]:
    """Put a release into the site, or point to its repository; how the manifest lists it."""
    folder, size = release_folder(name), sum(file.bytes for file in release.files.values())
    model, revision = _published(name, release) if hub else (f"{name}/{release.key}", None)
    if not hub:
        for file in files_below(folder):
            target = partial / "models" / model / file
            target.parent.mkdir(parents=True, exist_ok=True)
            (link_or_copy if file.startswith("onnx/") else shutil.copyfile)(folder / file, target)
    where = f"{model}@{revision}" if revision else f"models/{model}"
    because = release.not_publishable_because
    placed = Placed(name, release.base, where, 0 if hub else size, because)
    return placed, entry(name, folder, model, revision)


def _published(name: str, release: Release) -> tuple[str, str]:
    """Repository and commit of the present release; UserError where the Hub does not have it."""
    found = read_publication(name)
    if found is None or found.release_key != release.key:
        raise UserError(
            f"{name}: the present release is not on the Hub; run `./inv publish --domain {name}`"
        )
    return found.repository, found.revision


def _fill(partial: Path, models: list[dict[str, Any]], releases: list[Release]) -> None:
    """Page, runtime, licence, README.md and manifest.json."""
    shutil.copytree(PAGE, partial, dirs_exist_ok=True)
    runtime = [file for pattern in RUNTIME for file in sorted(VENDOR.glob(pattern))]
    for file in runtime:
        target = partial / "vendor" / file.relative_to(VENDOR)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copyfile(paths.REPOSITORY / "LICENSE", partial / "LICENSE")
    kept = [name for name in files_below(partial) if not name.startswith("models/")]
    (partial / "README.md").write_text(_readme(releases, models), encoding="utf-8")
    write_json(partial / MANIFEST, page_manifest(models, worker=WORKER, files=["./", *kept]))


def _readme(releases: list[Release], models: list[dict[str, Any]]) -> str:
    """Front matter and a few words: which models, from which bases, under which licences."""
    used = [*(m["model"] for m in models if m["revision"]), *(r.base for r in releases)]
    head = SPACE | {"models": list(dict.fromkeys(used))}
    lines = [
        f"- {r.domain}: from {r.base}, licence {r.licence_name or r.licence}" for r in releases
    ]
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n" + README.format(title=SPACE["title"], models="\n".join(lines))
