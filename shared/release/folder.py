"""Stages 8 and 9: the card, and models/<domain>/webgpu, exactly what is published.

release.json in that folder lists every file with its SHA-256, every measurement with the manifest
it came from, the gates and the attempts. The folder is swapped in whole (shared/base/files.py): readers
see the old release or the new one.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.code import code_hash
from shared.base.errors import UserError
from shared.base.files import link_or_copy, recover, swap_in
from shared.base.hashing import files_below, refuse_work, sha256_file, sha256_json
from shared.base.lock import alone
from shared.base.manifest import FILE_NAME, FileRecord, Manifest, Measurement
from shared.base.parsing import read_text
from shared.base.progress import say
from shared.domain.grammar.schema import grammar
from shared.domain.records import Record
from shared.evaluate.compare import Checked, read_checked
from shared.evaluate.scoring.measurements import better_mode
from shared.hub.names import repository_name
from shared.release.card.recipe import recipe_facts
from shared.release.card.usage import module
from shared.release.gates import failed, flatten, unproven
from shared.release.model import (
    CARD_CODE,
    CARD_FILE,
    GRAMMAR_FILE,
    MODULE_FILE,
    RELEASE_FILE,
    RELEASE_FOLDER,
    STAGES_IN_ALL,
    ChainResult,
    Release,
    read_release,
    release_folder,
)
from shared.release.signing import sign_folder

LICENCE = {"licence", "licence_name", "licence_link", "commercial_use"}


def make_release(result: ChainResult, *, force: bool = False) -> tuple[Release, bool]:
    """Write card and release folder of a chain; the release, and whether it was there already."""
    folder = release_folder(result.domain.name)
    with alone(paths.build() / f".release-{result.domain.name}.lock", paths.shown(folder)):
        return _make(result, folder, force)


def _make(result: ChainResult, folder: Path, force: bool) -> tuple[Release, bool]:
    domain, key = result.domain, _key(result)
    recover(folder)
    say(f"[8/{STAGES_IN_ALL}] {domain.name} · card")
    if not force and (old := _unchanged(folder, key)):
        say("      unchanged")
        say(f"[9/{STAGES_IN_ALL}] {domain.name} · release folder")
        say("      unchanged")
        sign_folder(folder, domain.chain.publish.signing_key)
        return old, True
    refuse_work(f"release of {domain.name}")
    partial = folder.with_name(f".{RELEASE_FOLDER}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _fill(partial, result)
    files = {name: file_record(partial / name) for name in files_below(partial)}
    release = _describe(result, key, files)
    say(f"[9/{STAGES_IN_ALL}] {domain.name} · release folder")
    release = write_described(partial, release, domain.prompt)
    sign_folder(partial, domain.chain.publish.signing_key)
    swap_in(partial, folder)
    return release, False


def write_described(folder: Path, release: Release, prompt: str) -> Release:
    """Write card and release.json into the folder, whose other files `release` lists."""
    from shared.release.card.card import render_card

    card = folder / CARD_FILE
    card.write_text(render_card(release, prompt), encoding="utf-8")
    files = dict(sorted((release.files | {CARD_FILE: file_record(card)}).items()))
    release = release.model_copy(update={"files": files})
    (folder / RELEASE_FILE).write_text(release.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return release


def file_record(path: Path) -> FileRecord:
    return FileRecord(sha256=sha256_file(path), bytes=path.stat().st_size)


def _key(result: ChainResult) -> str:
    attempts = [a.model_dump(exclude={"seconds", "measured"}) for a in result.attempts]
    keys = {stage: m.key + m.finished * bool(m.unfinished) for stage, m in result.manifests.items()}
    name = repository_name(result.domain, result.rung.base) if result.rung else ""
    settled = [name, Release.model_fields["version"].default, code_hash(*CARD_CODE)]
    settled += [result.family] if result.family else []
    if result.rung and "build" in result.manifests:
        settled += [recipe_facts(result.domain.name, result.rung.name, result.manifests["build"])]
    return sha256_json([result.domain.name, result.domain.key, attempts, keys, settled])[:16]


def _unchanged(folder: Path, key: str) -> Release | None:
    try:
        release = read_release(folder)
        sizes = {name: (folder / name).stat().st_size for name in release.files}
    except (UserError, OSError):
        return None
    intact = all(sizes[name] == record.bytes for name, record in release.files.items())
    return release if intact and release.key == key else None


def _fill(partial: Path, result: ChainResult) -> None:
    for name in files_below(result.package):
        if name != FILE_NAME:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            put = link_or_copy if name.startswith("onnx/") else shutil.copyfile
            put(result.package / name, partial / name)
    (partial / "prompt.md").write_text(result.domain.prompt + "\n", encoding="utf-8")
    shutil.copyfile(result.domain.folder / "schema.json", partial / "schema.json")
    (partial / GRAMMAR_FILE).write_text(grammar(result.domain.schema), encoding="ascii")
    (partial / MODULE_FILE).write_text(module(), encoding="utf-8")


def _describe(result: ChainResult, key: str, files: dict[str, FileRecord]) -> Release:
    rung = result.rung
    assert rung is not None
    commit, clean = git_state()
    because = not_publishable(result)
    manifests = result.manifests
    return Release(
        key=key,
        release_version=result.domain.chain.publish.version,
        prompt_version=result.domain.chain.prompt_version,
        domain=result.domain.name,
        rung=rung.name,
        exporter=next((a.exporter for a in result.attempts if a.outcome == "taken"), ""),
        repository=repository_name(result.domain, rung.base),
        **rung.model_dump(include=LICENCE | {"base", "prompt_only", "why"}),
        publishable=because is None,
        not_publishable_because=because,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=commit,
        git_clean=clean,
        manifests={stage: manifest.key for stage, manifest in manifests.items()},
        tools={k: v for manifest in manifests.values() for k, v in manifest.tools.items()},
        source_files=manifests["source"].inputs,
        domain_files=result.domain.hashes,
        card_template=read_text(result.domain.folder / "card.md"),
        card_code=code_hash(*CARD_CODE),
        example=_example(result),
        measurements=flatten(manifests) | costs(manifests),
        facts={stage: m.facts for stage, m in manifests.items()}
        | {"answers": {"max_new_tokens": result.domain.chain.check.max_new_tokens}}
        | _devices(result.package)
        | {"card": result.domain.chain.card.model_dump(), "sample": _sample(result)}
        | {"recipe": recipe_facts(result.domain.name, rung.name, manifests["build"])}
        | ({"family": result.family} if result.family else {}),
        gates=result.gates,
        attempts=result.attempts,
        files=files,
    )


def _devices(package: Path) -> dict[str, Any]:
    """For which classes of device it is made, as the card's table has it."""
    from shared.webgpu_bench.preflight import COLUMNS, cells, package_footprints, preflight

    rows = [cells(row) for row in preflight(package_footprints(package))]
    return {"preflight": {"devices": [dict(zip(COLUMNS, row, strict=True)) for row in rows]}}


def costs(manifests: Mapping[str, Manifest]) -> dict[str, Measurement]:
    """What each stage took, as measurements like the others."""
    costs: dict[str, Measurement] = {}
    for stage, m in manifests.items():
        whole = "; what a run before it had done is not in it" if m.resumed else ""
        clock = f"wall clock of the stage {stage}{whole}"
        took = Measurement(value=m.wall_seconds, unit="s", how=clock)
        held = f"resident memory, all processes{whole}"
        peak = Measurement(value=m.peak_rss_bytes, unit="B", how=held)
        costs |= {f"{stage}.wall_seconds": took, f"{stage}.peak_rss_bytes": peak}
    return costs


def _sample(result: ChainResult) -> dict[str, Any]:
    """The fields of an answer, and what was answered to the first record of our own, if it was asked,
    beside what is right: no other record goes out with a release."""
    found: dict[str, Any] = {"fields": list(result.domain.schema.get("properties", {}))}
    found["example"] = bool(result.rung and result.rung.example)
    check = result.manifests.get("check")
    if check is None:
        return found
    checked = read_checked(check.key, result.domain.name)
    answers = checked.of("release", better_mode(check.measurements))
    first = next(_own_records(result), None)
    if first is None or first.id not in answers:
        return found
    if checked.records.get(first.id, {}).get("input") != first.input:
        return found
    gold = json.dumps(first.gold, ensure_ascii=False)
    return found | {"input": first.input, "answer": answers[first.id]["text"], "gold": gold}


def _own_records(result: ChainResult) -> Iterator[Record]:
    return (r for r in result.domain.records if r.source is None and r.licence is None)


def _example(result: ChainResult) -> str | None:
    """An input for the Hub's widget: the first held-out record that is our own text."""
    return next((record.input for record in _own_records(result)), None)


def not_publishable(result: ChainResult) -> str | None:
    """The one sentence why this may not be published, or None."""
    rung = result.rung
    assert rung is not None
    where = f"domains/{result.domain.name}/fallback.toml: rung {rung.name}"
    if not rung.publishable:
        return f"{where}: publishable is false: {rung.why}"
    if not rung.commercial_use and not rung.acknowledge_non_commercial:
        return f"{where}: its licence forbids commercial use; set acknowledge_non_commercial = true"
    stopped = failed(result.gates, "publish")
    if stopped:
        return f"gate {stopped[0].name!r} failed: {stopped[0].reason}"
    if missing := unproven(result.gates):
        return f"gate {missing[0].name!r}: not measured: {missing[0].reason}"
    return None


def git_state() -> tuple[str | None, bool | None]:
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
