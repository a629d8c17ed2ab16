"""A site: the page, its runtime and released models in one folder that any static host serves.

>>> write_site(Path("site"), ["legal"], families=["build/family/0123456789abcdef"])
[Placed(domain='legal', base='HuggingFaceTB/SmolLM3-3B', where='models/legal/0123456789abcdef', ...)]

The page is that of `serve`; manifest.json tells it what is different. A model lies below models/ under
its release's key, a family under the hash of its record, or a model is named by its Hub repository at
the commit that was published: an address whose files never change, which is why they may be kept by the
service worker (page/sw.js) and, by their hashes, by the page (page/kept.js).
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from shared.base import paths
from shared.base.environment import without_password
from shared.base.errors import UserError
from shared.base.files import link_or_copy, recover, swap_in, write_json
from shared.base.hashing import files_below, sha256_file
from shared.base.parsing import read_json
from shared.base.tables import words
from shared.hub.download import fetch_small
from shared.olive.family_record import RECORD, read_family
from shared.pipeline.publication import read_publication
from shared.release.model import Release, own_release, read_family_release, release_folder
from shared.release.verify.files import present, safe
from shared.webgpu_bench.driver import INSTALL, PAGE, VENDOR, require_vendor
from shared.webgpu_bench.model_list import HUB, MANIFEST, entry, family_entries, page_manifest

WORKER = "sw.js"
RUNTIME = (
    "@huggingface/transformers/dist/transformers.web.js",
    "@huggingface/transformers/LICENSE",
    "@mlc-ai/web-xgrammar/lib/index.js",
    "@cfworker/json-schema/package.json",
    "@cfworker/json-schema/dist/esm/*.js",
    "hash-wasm/dist/sha256.umd.min.js",
    "hash-wasm/LICENSE",
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
    """A model or a family of a site: `where` it is fetched from, what it takes there, and its terms."""

    domain: str
    base: str
    where: str
    bytes: int
    terms: str
    not_publishable_because: str | None


def write_site(
    out: Path, domains: Sequence[str], *, families: Sequence[str] = (), hub: bool = False
) -> list[Placed]:
    """Write the site of these domains' releases to `out`, whole or not at all; what is in it.

    `families`: folders of families, or hf:org/name@commit, whose domains are in it as well. `hub`: name
    the models by their repositories instead of copying them. UserError where a domain has no release,
    or none on the Hub, and where `out` holds anything but an earlier site.
    """
    require_vendor()
    releases = {name: own_release(name) for name in domains}
    together = located(families)
    out = out.resolve()
    need_own(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        made = [_place(partial, name, release, hub) for name, release in releases.items()]
        made += [_place_family(partial, family) for family in together]
        at = _hub(domains if hub else (), together)
        _fill(partial, [one for _, models in made for one in models], [one for one, _ in made], at)
        swap_in(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [placed for placed, _ in made]


@dataclass(frozen=True)
class Located:
    """A family by the name that a page has it by; with a `revision`, its `folder` is without weights,
    which are in the repository `model` of `hub` at that commit."""

    name: str
    folder: Path
    model: str
    revision: str | None = None
    hub: str = HUB

    def entries(self) -> list[dict[str, Any]]:
        """How the page's manifest lists its domains."""
        return family_entries(self.name, self.folder, self.model, self.revision)


def located(families: Sequence[str]) -> list[Located]:
    """Families by their folder or as hf:org/name@commit; UserError for one that is none, and where two
    have one name."""
    found = [_located(place) for place in families]
    for one in found:
        read_family(one.folder)
    if len({one.name for one in found}) < len(found):
        raise UserError("--family: two of one name; a page tells families apart by it")
    return found


def _located(place: str) -> Located:
    if not place.startswith("hf:"):
        folder = Path(place).expanduser().resolve()
        try:
            validate_repo_id(folder.name)
        except HFValidationError:
            raise UserError(
                f"--family: {place}: no page can load a model of this name; call the folder as the "
                "family is called"
            ) from None
        return Located(folder.name, folder, folder.name)
    folder, at = fetch_small(place, (RECORD, "domains/*"))
    hub = HfApi().endpoint
    if without_password(hub) != hub:
        raise UserError("HF_ENDPOINT: names who is asking; a page that others see would, too")
    return Located(at.repo_id.split("/")[1], folder, at.repo_id, at.revision, hub)


def need_own(out: Path) -> None:
    """UserError unless the folder is missing, empty, or a site that was written before and nothing
    more: a person's .git or CNAME in it is not deleted."""
    recover(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_site(out):
        raise UserError(
            f"--out: {out} is there already and is no site of ours; nothing was written"
        )
    told = read_json(out / MANIFEST)
    ours = {*told.get("files", []), MANIFEST, "README.md"}
    models = tuple(f"models/{one['model']}/" for one in told.get("models", []) if "model" in one)
    added = (n for n in files_below(out) if n not in ours and not n.startswith(models))
    if file := next(added, None):
        raise UserError(
            f"--out: {out / file} is not of the site that is there, and would be deleted with it; "
            "take another folder"
        )


def is_site(folder: Path) -> bool:
    """Whether its manifest.json is one that `write_site` wrote."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and (found.get("version"), found.get("worker")) == (1, WORKER)


def _place(
    partial: Path, name: str, release: Release, hub: bool
) -> tuple[Placed, list[dict[str, Any]]]:
    """Put a release into the site, or point to its repository; how the manifest lists it."""
    folder, size = release_folder(name), sum(file.bytes for file in release.files.values())
    model, revision = _published(name, release) if hub else (f"{name}/{release.key}", None)
    if not hub:
        _copy(folder, partial / "models" / model)
    where = f"{model}@{revision}" if revision else f"models/{model}"
    because = release.not_publishable_because
    terms = f"licence {release.licence_name or release.licence}"
    placed = Placed(name, release.base, where, 0 if hub else size, terms, because)
    return placed, [entry(name, folder, model, revision)]


def _place_family(partial: Path, family: Located) -> tuple[Placed, list[dict[str, Any]]]:
    record, size = read_family(family.folder), 0
    if not family.revision:
        key = sha256_file(family.folder / RECORD)[:16]
        family = replace(family, model=f"{family.name}/{key}")
        size = _copy(family.folder, partial / "models" / family.model)
    where = f"{family.model}@{family.revision}" if family.revision else f"models/{family.model}"
    terms, because = _family_terms(family.folder, list(record.adapters))
    return Placed(family.name, record.base, where, size, terms, because), family.entries()


def _family_terms(folder: Path, domains: Sequence[str]) -> tuple[str, str | None]:
    """Whose base it is, with its licence where it is released, and why it is not to be published."""
    together = f"one base for {', '.join(domains)}"
    if "licence" not in read_json(folder / RECORD):  # built, not released
        return together, None
    told = read_family_release(folder)
    terms = f"{together}, licence {told.licence_name or told.licence}"
    reasons = [] if told.commercial_use else ["its base's licence forbids commercial use"]
    for name, member in told.domains.items():
        with suppress(UserError):
            release = own_release(name)
            if release.key == member.release and release.not_publishable_because:
                reasons.append(f"{name}: {release.not_publishable_because}")
    return terms, "; ".join(reasons) or None


def _copy(folder: Path, target: Path) -> int:
    """A model's folder into the site, and its bytes; what is large is linked. UserError where a link,
    a pickle or a secret is in it: a family's folder may be somebody else's."""
    safe(folder)
    names = [name for name in present(folder) if not name.startswith(".")]
    for file in names:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        large = file.startswith(("onnx/", "adapters/"))
        (link_or_copy if large else shutil.copyfile)(folder / file, target / file)
    return sum((target / file).stat().st_size for file in names)


def _published(name: str, release: Release) -> tuple[str, str]:
    """Repository and commit of the present release; UserError where the Hub does not have it."""
    found = read_publication(name)
    if found is None or not found.is_of(release):
        raise UserError(
            f"{name}: the present release is not on the Hub; run `./inv publish --domain {name}`"
        )
    return found.repository, found.revision


def _hub(domains: Sequence[str], families: Sequence[Located]) -> str:
    """The Hub that they were published to; UserError where there are two, since a page asks one."""
    found = [publication for name in domains if (publication := read_publication(name))]
    asked = {one.url.removesuffix(f"/{one.repository}") for one in found}
    if named := next((hub for hub in asked if "@" in hub), None):
        raise UserError(
            f"{named}: names who is asking, so no stranger's page could read from it; publish again "
            "with an HF_ENDPOINT that names nobody"
        )
    hubs = sorted(asked | {family.hub for family in families if family.revision})
    if len(hubs) > 1:
        raise UserError(
            f"the models are on {' and on '.join(hubs)}; a site takes them from one Hub"
        )
    return hubs[0] if hubs else HUB


def runtime() -> list[Path]:
    """The files of the page's packages that a site has; UserError where one is not installed."""
    found = {pattern: sorted(VENDOR.glob(pattern)) for pattern in RUNTIME}
    if absent := next((pattern for pattern, files in found.items() if not files), None):
        raise UserError(f"the page's package file {absent} is not installed; run: {INSTALL}")
    return [file for files in found.values() for file in files]


def _fill(partial: Path, models: list[dict[str, Any]], placed: list[Placed], hub: str) -> None:
    """Page, runtime, licence, README.md and manifest.json."""
    shutil.copytree(PAGE, partial, dirs_exist_ok=True)
    for file in runtime():
        target = partial / "vendor" / file.relative_to(VENDOR)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copyfile(paths.REPOSITORY / "LICENSE", partial / "LICENSE")
    kept = [name for name in files_below(partial) if not name.startswith("models/")]
    (partial / "README.md").write_text(_readme(placed, models), encoding="utf-8")
    write_json(
        partial / MANIFEST,
        page_manifest(models, worker=WORKER, files=["./", MANIFEST, *kept], hub=hub),
    )


def _readme(placed: list[Placed], models: list[dict[str, Any]]) -> str:
    """Front matter and a few words: which models, from which bases, under which licences."""
    used = [*(m["model"] for m in models if m["revision"]), *(one.base for one in placed)]
    head = SPACE | {"models": list(dict.fromkeys(used))}
    lines = [f"- {one.domain}: from {words(one.base)}, {words(one.terms)}" for one in placed]
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n" + README.format(title=SPACE["title"], models="\n".join(lines))
