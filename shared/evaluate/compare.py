"""Two releases on the same records: `./inv compare A B`. A or B is a domain or a release folder.

What is compared are the answers of each release's own check, judged again by the present code and
A's `[metrics]`, so that nothing but the answers differs. A release folder of another checkout,
<checkout>/models/<domain>/webgpu, has its check in <checkout>/build.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.manifest import FILE_NAME, Manifest, Measurement
from shared.domain.records import Record
from shared.domain.settings import FieldScoring
from shared.evaluate.check import ANSWERS, RECORDS
from shared.evaluate.scoring.measurements import NOT_PAIRED, compare
from shared.evaluate.scoring.summary import stands_twice, summarise
from shared.evaluate.scoring.verdict import Verdict, judge
from shared.evaluate.systems import MODES, Mode, Name


@dataclass(frozen=True)
class Checked:
    """A finished check: its manifest, its records by id, its judged answers."""

    manifest: Manifest
    records: dict[str, dict[str, Any]]
    lines: list[dict[str, Any]]

    def of(self, system: Name, mode: Mode) -> dict[str, dict[str, Any]]:
        """Answers by record id."""
        return {a["id"]: a for a in self.lines if (a["system"], a["mode"]) == (system, mode)}

    def judge_again(self, answers: dict[str, dict[str, Any]], ids: list[str]) -> list[Verdict]:
        """Verdicts of these answers to our records, by our schema and metrics."""
        settings = self.manifest.settings
        metrics = {n: FieldScoring.model_validate(how) for n, how in settings["metrics"].items()}
        return [
            judge(answers[i]["text"], Record(**self.records[i]), settings["schema"], metrics)
            for i in ids
        ]


def read_checked(key: str, whose: str, elsewhere: Path | None = None) -> Checked:
    """The check stage's folder of that key, in build/ or `elsewhere`, another checkout's build/.

    UserError where it is in neither.
    """
    builds = [paths.build(), *([elsewhere] if elsewhere else [])]
    folders = [build / "check" / key for build in builds]
    folder = next((f for f in folders if (f / FILE_NAME).is_file()), None)
    if folder is None:
        looked = " and ".join(paths.shown(f) for f in folders)
        raise UserError(
            f"{whose}: the answers of its check are not on this machine (looked for {looked}); "
            "compare where it was released, or name its folder in the checkout that released it"
        )
    try:
        lines, records = (_lines(folder / name) for name in (ANSWERS, RECORDS))
        return Checked(Manifest.read(folder), {r["id"]: r for r in records}, lines)
    except (ValueError, KeyError, TypeError):  # pydantic's is a ValueError
        raise UserError(
            f"{whose}: its check in {paths.shown(folder)} is of another version of this code; run "
            "`./inv check` again"
        ) from None


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def newest_file(domain: str) -> Path:
    """The JSON report of a domain's newest check."""
    return paths.build() / "reports" / f"check-{domain}.json"


def write_newest(domain: str, check: Manifest) -> None:
    """Remember which check is this domain's newest, with all it measured."""
    found = {name: m.model_dump(exclude_none=True) for name, m in check.measurements.items()}
    report = {"domain": domain, "key": check.key, "facts": check.facts, "measurements": found}
    write_text(newest_file(domain), json.dumps(report, indent=2) + "\n")


def newest_check(domain: str) -> Checked:
    """The newest check of a domain on this machine; UserError where there is none."""
    file = newest_file(domain)
    if not file.is_file():
        raise UserError(f"{domain} was not checked here; run `./inv check --domain {domain}`")
    return read_checked(json.loads(file.read_bytes())["key"], domain)


def compare_checks(a: Checked, b: Checked) -> tuple[int, dict[str, dict[str, Measurement]]]:
    """How many records both answered, and for each mode `metric` → A, B and A less B.

    Names: `a.<metric>`, `b.<metric>`, `difference.<metric>`. UserError where nothing is common, or
    where the two answered to other schemas.
    """
    if a.manifest.settings["schema"] != b.manifest.settings["schema"]:
        raise UserError("nothing to compare: A and B were asked to keep to different schema.json")
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
            found[mode] = _compared(*(a.judge_again(answers, common) for answers in (ours, other)))
    if not found:
        asked = (", ".join(one.manifest.settings["modes"]) for one in (a, b))
        raise UserError("nothing to compare: A answered {}, B {}".format(*asked))
    return len(common), found


def _compared(left: list[Verdict], right: list[Verdict]) -> dict[str, Measurement]:
    found: dict[str, Measurement] = {}
    both = [summarise(verdicts, "the records that both answered") for verdicts in (left, right)]
    for name in both[0]:
        if name in both[1] and name not in NOT_PAIRED:
            found[f"a.{name}"], found[f"b.{name}"] = both[0][name], both[1][name]
            found[f"difference.{name}"] = compare(left, right, name)
    return found


def rows_of(found: dict[str, Measurement]) -> list[str]:
    """The metrics of one mode, in their order; none that says the same as the one before it."""
    names = [name.removeprefix("a.") for name in found if name.startswith("a.")]
    return [name for name in names if not stands_twice(found, f"a.{name}")]
