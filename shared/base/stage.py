"""One stage: declared inputs → a folder with a manifest. Atomic, resumable, locked, never redone.

>>> done = run_stage(Plan("package", inputs={"build": key}, settings={...}), produce)
>>> done.folder, done.manifest, done.reused

The folder's name is the hash of everything the result depends on, so that two domains with the same
bytes share it. Work happens in a hidden folder beside it and is renamed at the very end: whatever is
visible under its final name is whole.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.base import paths
from shared.base.code import code_hash
from shared.base.files import swap_in
from shared.base.hashing import files_below, refuse_work, save_hashes, sha256_file, sha256_json
from shared.base.lock import alone
from shared.base.manifest import FILE_NAME, FileRecord, Manifest, Measurement
from shared.base.processes import give_back_memory, peak_memory

LARGE_BYTES = 2_000_000_000
"""After a stage that took more, what was freed is given back to the system: it takes a moment."""


@dataclass(frozen=True)
class Plan:
    """What a stage's result depends on. `code`: the modules and files that lead to all of its code,
    mostly the module in which it stands (see shared.base.code)."""

    stage: str
    inputs: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """16 hex digits of SHA-256 over all of it."""
        code = code_hash(*self.code)
        return sha256_json([self.stage, code, self.inputs, self.settings, self.tools])[:16]

    @property
    def folder(self) -> Path:
        return paths.build() / self.stage / self.key


@dataclass
class Produced:
    """What a producing function hands back besides the files it wrote.

    `unfinished`: what the time did not allow. The result stands until another run has taken it up,
    which finds its files in the work folder (`keep_partial`).
    """

    measurements: dict[str, Measurement] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    unfinished: str | None = None
    resumed: bool = False


@dataclass(frozen=True)
class StageResult:
    """A finished stage."""

    folder: Path
    manifest: Manifest
    reused: bool


Produce = Callable[[Path], Produced]


def run_stage(
    plan: Plan,
    produce: Produce,
    *,
    force: bool = False,
    keep_partial: bool = False,
    take_up: bool = True,
) -> StageResult:
    """Give back the finished stage, running `produce(work_folder)` only if it must.

    `keep_partial`: the work folder of a killed run, or an unfinished result, is handed to `produce`
    again, which resumes from it; otherwise it starts from an empty one. `take_up`: an unfinished
    result is gone on with; otherwise it is given back as it is.
    """
    if not force and (manifest := _finished(plan, take_up)):
        return StageResult(plan.folder, manifest, reused=True)
    refuse_work(f"{plan.stage}/{plan.key}")
    work = plan.folder.with_name(f".{plan.key}.partial")
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(plan.folder.with_name(f".{plan.key}.lock"), f"{plan.stage}/{plan.key}"):
        if not force and (manifest := _finished(plan, take_up)):
            return StageResult(plan.folder, manifest, reused=True)
        if not keep_partial or force:
            shutil.rmtree(work, ignore_errors=True)
        if keep_partial and not force and not work.exists() and plan.folder.exists():
            copy = work.with_name(f".{plan.key}.copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(plan.folder, copy)
            copy.rename(work)
        resumed = work.exists()
        work.mkdir(exist_ok=True)
        manifest = _measured(plan, produce, work, resumed)
        swap_in(work, plan.folder)
        save_hashes({plan.folder / name: r.sha256 for name, r in manifest.outputs.items()})
    return StageResult(plan.folder, manifest, reused=False)


def _finished(plan: Plan, take_up: bool) -> Manifest | None:
    """The manifest, if it is there, whole, and its outputs are still of the recorded size."""
    try:
        manifest = Manifest.read(plan.folder)
        sizes = {name: (plan.folder / name).stat().st_size for name in manifest.outputs}
    except (OSError, ValidationError):
        return None
    intact = all(sizes[name] == record.bytes for name, record in manifest.outputs.items())
    whole = intact and manifest.key == plan.key and not (take_up and manifest.unfinished)
    return manifest if whole else None


def _measured(plan: Plan, produce: Produce, work: Path, resumed: bool) -> Manifest:
    started = time.monotonic()
    with peak_memory() as peak:
        produced = produce(work)
    if peak[0] > LARGE_BYTES:  # of a 3B model 3 GB stayed, beside the browser of the next stage
        give_back_memory()
    manifest = Manifest(
        stage=plan.stage,
        key=plan.key,
        inputs=plan.inputs,
        settings=plan.settings,
        tools=plan.tools,
        outputs=_records(work),
        measurements=produced.measurements,
        facts=produced.facts,
        wall_seconds=round(time.monotonic() - started, 3),
        peak_rss_bytes=peak[0],
        unfinished=produced.unfinished,
        resumed=resumed or produced.resumed,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (work / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def _records(folder: Path) -> dict[str, FileRecord]:
    names = [name for name in files_below(folder) if name != FILE_NAME]
    return {
        name: FileRecord(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
        for name in names
    }
