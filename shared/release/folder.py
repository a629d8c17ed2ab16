"""Stages 8 and 9: the card, and models/<domain>/webgpu, exactly what is published.

release.json in that folder lists every file with its SHA-256, every measurement with the manifest
it came from, the gates and the attempts. The folder is swapped in whole (shared/base/files.py): readers
see the old release or the new one.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import recover, swap_in
from shared.base.hashing import files_below, refuse_work, sha256_file, sha256_json
from shared.base.manifest import FILE_NAME, FileRecord, Manifest, Measurement
from shared.base.parsing import read_text
from shared.base.progress import say
from shared.domain.grammar import grammar
from shared.evaluate.compare import Checked, read_checked
from shared.hub.names import repository_name
from shared.olive.package import link_or_copy
from shared.release.card.code import code_hash
from shared.release.card.recipe import recipe_facts
from shared.release.gates import failed, flatten
from shared.release.model import (
    CARD_FILE,
    RELEASE_FILE,
    RELEASE_FOLDER,
    STAGES_IN_ALL,
    ChainResult,
    Release,
    read_release,
    release_folder,
)
from shared.release.signature import SIGNATURE_FILE
from shared.release.signing import sign_folder


def make_release(walked: ChainResult, *, force: bool = False) -> tuple[Release, bool]:
    """Write card and release folder for a finished walk; the release, and whether it was reused."""
    folder = release_folder(walked.domain.name)
    recover(folder)
    key = _key(walked)
    say(f"[8/{STAGES_IN_ALL}] {walked.domain.name} · card")
    if not force and (old := _unchanged(folder, key)):
        say("      unchanged")
        say(f"[9/{STAGES_IN_ALL}] {walked.domain.name} · release folder")
        say("      unchanged")
        sign_folder(folder, walked.domain.chain.publish.signing_key)
        return old, True
    refuse_work(f"release of {walked.domain.name}")
    from shared.release.card.card import render_card

    partial = folder.with_name(f".{RELEASE_FOLDER}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _fill(partial, walked)
    release = _describe(walked, key).model_copy(update={"files": _files(partial)})
    card = render_card(release, walked.domain.prompt)
    (partial / CARD_FILE).write_text(card, encoding="utf-8")
    say(f"[9/{STAGES_IN_ALL}] {walked.domain.name} · release folder")
    release = release.model_copy(update={"files": _files(partial)})
    (partial / RELEASE_FILE).write_text(release.model_dump_json(indent=2) + "\n", encoding="utf-8")
    sign_folder(partial, walked.domain.chain.publish.signing_key)
    swap_in(partial, folder)
    return release, False


def _key(walked: ChainResult) -> str:
    attempts = [a.model_dump(exclude={"seconds", "measured"}) for a in walked.attempts]
    keys = {stage: done.manifest.key for stage, done in walked.stages.items()}
    name = repository_name(walked.domain, walked.rung.base) if walked.rung else ""
    settled = [name, Release.model_fields["version"].default, code_hash()]
    return sha256_json([walked.domain.name, walked.domain.hashes, attempts, keys, settled])[:16]


def _unchanged(folder: Path, key: str) -> Release | None:
    try:
        release = read_release(folder)
        sizes = {name: (folder / name).stat().st_size for name in release.files}
    except (UserError, OSError):
        return None
    intact = all(sizes[name] == record.bytes for name, record in release.files.items())
    return release if intact and release.key == key else None


def _fill(partial: Path, walked: ChainResult) -> None:
    for name in files_below(walked.package):
        if name != FILE_NAME:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            put = link_or_copy if name.startswith("onnx/") else shutil.copyfile
            put(walked.package / name, partial / name)
    (partial / "prompt.md").write_text(walked.domain.prompt + "\n", encoding="utf-8")
    shutil.copyfile(walked.domain.folder / "schema.json", partial / "schema.json")
    (partial / "grammar.ebnf").write_text(grammar(walked.domain.schema), encoding="ascii")


def _describe(walked: ChainResult, key: str) -> Release:
    rung = walked.rung
    assert rung is not None
    commit, clean = _git_state()
    because = not_publishable(walked)
    manifests = walked.manifests
    return Release(
        key=key,
        release_version=walked.domain.chain.publish.version,
        domain=walked.domain.name,
        rung=rung.name,
        recipe=next((a.recipe for a in walked.attempts if a.outcome == "taken"), ""),
        repository=repository_name(walked.domain, rung.base),
        base=rung.base,
        licence=rung.licence,
        licence_name=rung.licence_name,
        licence_link=rung.licence_link,
        commercial_use=rung.commercial_use,
        prompt_only=rung.prompt_only,
        publishable=because is None,
        not_publishable_because=because,
        why=rung.why,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=commit,
        git_clean=clean,
        manifests={stage: manifest.key for stage, manifest in manifests.items()},
        tools={k: v for manifest in manifests.values() for k, v in manifest.tools.items()},
        source_files=manifests["source"].inputs,
        domain_files=walked.domain.hashes,
        card_template=read_text(walked.domain.folder / "card.md"),
        card_code=code_hash(),
        example=_example(walked),
        measurements=flatten(manifests) | _costs(manifests),
        facts={stage: m.facts for stage, m in manifests.items()}
        | _devices(walked.package)
        | {"recipe": recipe_facts(walked.domain.name, rung.name, manifests["build"])},
        gates=walked.gates,
        attempts=walked.attempts,
        files={},
    )


def _devices(package: Path) -> dict[str, Any]:
    """For which classes of device it is made, as the card's table has it."""
    from shared.webgpu_bench.preflight import COLUMNS, cells, package_footprints, preflight

    rows = [cells(row) for row in preflight(package_footprints(package))]
    return {"preflight": {"devices": [dict(zip(COLUMNS, row, strict=True)) for row in rows]}}


def _costs(manifests: dict[str, Manifest]) -> dict[str, Measurement]:
    """What each stage took, as measurements like the others."""
    costs: dict[str, Measurement] = {}
    for stage, m in manifests.items():
        took = Measurement(value=m.wall_seconds, unit="s", how=f"wall clock of the stage {stage}")
        peak = Measurement(value=m.peak_rss_bytes, unit="B", how="resident memory, all processes")
        costs |= {f"{stage}.wall_seconds": took, f"{stage}.peak_rss_bytes": peak}
    return costs


def _example(walked: ChainResult) -> str | None:
    """An input for the Hub's widget: the first held-out record that is our own text."""
    own = (r.input for r in walked.domain.records if r.source is None and r.licence is None)
    return next(own, None)


def not_publishable(walked: ChainResult) -> str | None:
    """The one sentence why this may not be published, or None."""
    rung = walked.rung
    assert rung is not None
    where = f"domains/{walked.domain.name}/fallback.toml: rung {rung.name}"
    if not rung.publishable:
        return f"{where}: publishable is false: {rung.why}"
    if not rung.commercial_use and not rung.acknowledge_non_commercial:
        return f"{where}: its licence forbids commercial use; set acknowledge_non_commercial = true"
    stopped = failed(walked.gates, "publish")
    if stopped:
        return f"gate {stopped[0].name!r} failed: {stopped[0].reason}"
    return None


def _files(folder: Path) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in files_below(folder)
        if name not in (RELEASE_FILE, SIGNATURE_FILE)
    }


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and cleanness of this checkout; (None, None) outside of git."""

    def git(*words: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(paths.REPOSITORY), *words], capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), not git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None, None


def check_of(name: str) -> Checked:
    """The check behind a domain's present release, or behind a release folder."""
    is_folder = "/" in name or (Path(name) / "release.json").is_file()
    folder = Path(name).expanduser() if is_folder else release_folder(name)
    release = read_release(folder)
    above = folder.resolve().parents
    elsewhere = above[2] / "build" if is_folder and len(above) > 2 else None
    return read_checked(release.manifests.get("check", "none"), name, elsewhere)
