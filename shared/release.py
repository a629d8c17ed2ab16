"""Stages 8 and 9: the card, and models/<domain>/webgpu, exactly what is published.

release.json in that folder lists every file with its SHA-256, every measurement with the manifest
it came from, the gates and the attempts. The folder is swapped in whole: readers see the old
release or the new one.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared import paths
from shared.chain import Walk
from shared.errors import UserError
from shared.folders import swap_in
from shared.gates import GateResult, failed, flatten
from shared.hashing import files_below, refuse_work, sha256_file, sha256_files, sha256_json
from shared.manifest import FILE_NAME, FileRecord, Measurement, Strict
from shared.olive.package import link_or_copy
from shared.progress import say
from shared.rung_run import STAGES_IN_ALL, Attempt

RELEASE_FILE = "release.json"
CARD_FILE = "README.md"
RELEASE_FOLDER = "webgpu"


class Release(Strict):
    """What a release folder says of itself. `key` changes with anything the release depends on.

    `release_version` is publish.version of fallback.toml; None lets the Hub's tags be counted on.
    """

    version: int = 1
    key: str
    release_version: str | None = None
    domain: str
    rung: str
    base: str
    licence: str
    prompt_only: bool
    publishable: bool
    not_publishable_because: str | None
    why: str
    created: str
    git_commit: str | None
    git_clean: bool | None
    manifests: dict[str, str]
    tools: dict[str, str]
    measurements: dict[str, Measurement]
    facts: dict[str, dict[str, Any]]
    gates: list[GateResult]
    attempts: list[Attempt]
    files: dict[str, FileRecord]


def release_folder(domain: str) -> Path:
    return paths.models(domain) / RELEASE_FOLDER


def read_release(folder: Path) -> Release:
    """The release.json of a release folder; UserError where there is none or it is not ours."""
    path = folder / RELEASE_FILE
    try:
        return Release.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{paths.shown(path)}: missing; run `./inv release` first") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{paths.shown(path)}: {key}: {first['msg'].lower()}") from None


def make_release(walked: Walk, *, force: bool = False) -> tuple[Release, bool]:
    """Write card and release folder for a finished walk; the release, and whether it was reused."""
    folder = release_folder(walked.domain.name)
    key = _key(walked)
    say(f"[8/{STAGES_IN_ALL}] {walked.domain.name} · card")
    if not force and (old := _unchanged(folder, key)):
        say("      unchanged")
        say(f"[9/{STAGES_IN_ALL}] {walked.domain.name} · release folder")
        say("      unchanged")
        return old, True
    refuse_work(f"release of {walked.domain.name}")
    from shared.card.card import render_card

    partial = folder.with_name(f".{RELEASE_FOLDER}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _fill(partial, walked)
    release = _describe(walked, key)
    (partial / CARD_FILE).write_text(render_card(walked, release), encoding="utf-8")
    say(f"[9/{STAGES_IN_ALL}] {walked.domain.name} · release folder")
    release = release.model_copy(update={"files": _files(partial)})
    (partial / RELEASE_FILE).write_text(release.model_dump_json(indent=2) + "\n")
    swap_in(partial, folder)
    return release, False


def _key(walked: Walk) -> str:
    attempts = [a.model_dump(exclude={"seconds", "measured"}) for a in walked.attempts]
    keys = {stage: done.manifest.key for stage, done in walked.done.items()}
    card = paths.REPOSITORY / "shared" / "card"
    code = sha256_files(card, [n for n in files_below(card) if n.endswith(".py")])
    return sha256_json([walked.domain.name, walked.domain.hashes, attempts, keys, code])[:16]


def _unchanged(folder: Path, key: str) -> Release | None:
    try:
        release = read_release(folder)
        sizes = {name: (folder / name).stat().st_size for name in release.files}
    except (UserError, OSError):
        return None
    intact = all(sizes[name] == record.bytes for name, record in release.files.items())
    return release if intact and release.key == key else None


def _fill(partial: Path, walked: Walk) -> None:
    for name in files_below(walked.package):
        if name != FILE_NAME:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            put = link_or_copy if name.startswith("onnx/") else shutil.copyfile
            put(walked.package / name, partial / name)
    (partial / "prompt.md").write_text(walked.domain.prompt + "\n", encoding="utf-8")
    shutil.copyfile(walked.domain.folder / "schema.json", partial / "schema.json")


def _describe(walked: Walk, key: str) -> Release:
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
        base=rung.base,
        licence=rung.licence,
        prompt_only=rung.prompt_only,
        publishable=because is None,
        not_publishable_because=because,
        why=rung.why,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=commit,
        git_clean=clean,
        manifests={stage: manifest.key for stage, manifest in manifests.items()},
        tools={k: v for manifest in manifests.values() for k, v in manifest.tools.items()},
        measurements=flatten(manifests),
        facts={stage: manifest.facts for stage, manifest in manifests.items()},
        gates=walked.gates,
        attempts=walked.attempts,
        files={},
    )


def not_publishable(walked: Walk) -> str | None:
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
