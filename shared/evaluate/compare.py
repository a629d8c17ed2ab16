"""Two releases on the same records: `./inv compare A B`. A or B is a domain or a release folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.errors import UserError
from shared.evaluate.answers import Verdict
from shared.evaluate.check import ANSWERS, RECORDS
from shared.evaluate.quality import NOT_PAIRED, compare
from shared.evaluate.summary import summarise
from shared.evaluate.systems import MODES, Mode, Name
from shared.folders import write_text
from shared.manifest import FILE_NAME, Manifest, Measurement


@dataclass(frozen=True)
class Checked:
    """A finished check: its manifest, its records by id, its judged answers."""

    manifest: Manifest
    records: dict[str, dict[str, Any]]
    lines: list[dict[str, Any]]

    def of(self, system: Name, mode: Mode) -> dict[str, dict[str, Any]]:
        """Answers by record id."""
        return {a["id"]: a for a in self.lines if (a["system"], a["mode"]) == (system, mode)}


def read_checked(key: str, whose: str) -> Checked:
    """The check stage's folder of that key; UserError where it is not on this machine."""
    folder = paths.build() / "check" / key
    if not (folder / FILE_NAME).is_file():
        raise UserError(
            f"{whose}: its answers are not on this machine ({paths.shown(folder)} is missing); "
            "run `./inv check` where it was released"
        )
    lines, records = (_lines(folder / name) for name in (ANSWERS, RECORDS))
    return Checked(Manifest.read(folder), {r["id"]: r for r in records}, lines)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def check_of(name: str) -> Checked:
    """The check behind a domain's present release, or behind a release folder."""
    from shared.release import read_release, release_folder

    is_folder = "/" in name or (Path(name) / "release.json").is_file()
    release = read_release(Path(name) if is_folder else release_folder(name))
    return read_checked(release.manifests.get("check", "none"), name)


def newest_file(domain: str) -> Path:
    """Where the newest check of a domain is told as JSON."""
    return paths.build() / "reports" / f"check-{domain}.json"


def write_newest(domain: str, check: Manifest) -> None:
    """Remember which check is this domain's newest, with all it measured."""
    told = {"domain": domain, "key": check.key, "facts": check.facts}
    found = {name: m.model_dump(exclude_none=True) for name, m in check.measurements.items()}
    write_text(newest_file(domain), json.dumps(told | {"measurements": found}, indent=2) + "\n")


def newest_check(domain: str) -> Checked:
    """The newest check of a domain on this machine; UserError where there is none."""
    file = newest_file(domain)
    if not file.is_file():
        raise UserError(f"{domain} was not checked here; run `./inv check --domain {domain}`")
    return read_checked(json.loads(file.read_bytes())["key"], domain)


def compare_checks(a: Checked, b: Checked) -> tuple[int, dict[str, dict[str, Measurement]]]:
    """How many records both answered, and for each mode `metric` → A, B and A less B.

    Names: `a.<metric>`, `b.<metric>`, `difference.<metric>`. UserError where nothing is common.
    """
    common = [i for i, r in a.records.items() if r == b.records.get(i)]
    if not common:
        raise UserError(
            f"nothing to compare: A answered {a.manifest.facts['origin']}, "
            f"B {b.manifest.facts['origin']}, and no record is in both"
        )
    found: dict[str, dict[str, Measurement]] = {}
    for mode in MODES:
        ours, other = a.of("release", mode), b.of("release", mode)
        if all(i in ours and i in other for i in common):
            found[mode] = _compared([ours[i] for i in common], [other[i] for i in common])
    return len(common), found


def _compared(ours: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Measurement]:
    left, right = ([Verdict(**line["verdict"]) for line in lines] for lines in (ours, other))
    found = {}
    both = [summarise(verdicts, "the records that both answered") for verdicts in (left, right)]
    for name in both[0]:
        if name in both[1] and name not in NOT_PAIRED:
            found[f"a.{name}"], found[f"b.{name}"] = both[0][name], both[1][name]
            found[f"difference.{name}"] = compare(left, right, name)
    return found


def rows_of(found: dict[str, Measurement]) -> list[str]:
    """The metrics of one mode, in their order."""
    return [name.removeprefix("a.") for name in found if name.startswith("a.")]
