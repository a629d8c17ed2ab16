"""What a release takes: committed records of real ones, and the tables that README.md shows of them.

$ python -m benchmarks.release_record                       # the table, from benchmarks/records/
$ python -m benchmarks.release_record --card                # the beginning of the example's card
$ python -m benchmarks.release_record --keep example legal  # of the domain's newest release here
$ python -m benchmarks.release_record --keep full-size tax --root /elsewhere --note "other jobs ran"
$ python -m benchmarks.release_record --keep set-up         # of this clone's environment

A record is made on the machine that released: cores and memory are this machine's, all else is read
from the manifests of the attempt that was taken. `full-size-gpu` is a release on a machine with a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_json
from shared.base.formatting import duration, number
from shared.base.manifest import Manifest, Strict
from shared.base.parsing import read_json, validate
from shared.base.tables import table
from shared.pipeline.one_domain import read_attempts
from shared.release.model import CARD_FILE, release_folder

FOLDER = paths.REPOSITORY / "benchmarks" / "records"
SET_UP, EXAMPLE = "set-up", "example"
ROWS = {
    SET_UP: "set-up, once",
    EXAMPLE: "the example: no weights of your own",
    "full-size": "a 3B model, no GPU",
    "full-size-gpu": "a 3B model, with a GPU",
}
"""Record → what README.md calls it."""
PARTS = {
    "build": ("build",),
    "answers": ("fidelity", "check"),
    "browser": ("overflow", "bench"),
}
"""Column → the stages whose seconds stand in it."""
NOT_MEASURED = {
    "full-size-gpu": "no release of such a model was made on a machine with a GPU yet",
}
NO_RECORD = "no record of it was kept yet"
SET_UP_SAYS = re.compile(r"^set up in (\d+) s$", re.MULTILINE)
VENV_LOG = ".venv/setup.log"


class StageCost(Strict):
    """One stage: its wall time and the largest resident memory of its processes together."""

    seconds: float
    peak_bytes: int


class Record(Strict):
    """What was measured of one release, or of the set-up, which has no stages.

    `disk_bytes`: what its stages or the set-up left behind, on blocks of the disk. `download_bytes`:
    what a user of the release fetches, q4f16. `adapter`: the WebGPU adapter. `unfinished`: what the
    time did not allow. `card`: of the example, the beginning of its card, in Markdown.
    """

    model: str = ""
    parameters: int | None = None
    taken: str
    cores: int
    memory_bytes: int
    adapter: str = ""
    seconds: float
    stages: dict[str, StageCost] = Field(default_factory=dict)
    disk_bytes: int
    download_bytes: int | None = None
    unfinished: str | None = None
    note: str = ""
    card: str = ""


def keep(name: str, domain: str, root: Path, note: str = "") -> Path:
    """Write the record `name`; UserError where nothing was released or set up at `root`."""
    if name not in ROWS:
        raise UserError(f"--keep {name}: no such record; there are {', '.join(ROWS)}")
    os.environ["DOCINTEL_ROOT"] = str(root.resolve())
    record = _of_set_up(root) if name == SET_UP else _of_release(domain, card=name == EXAMPLE)
    data = record.model_copy(update={"note": note}).model_dump(exclude_defaults=True)
    return write_json(FOLDER / f"{name}.json", data)


def read_records() -> dict[str, Record]:
    """The committed records, by name, in the order of ROWS; one that is not there was not measured."""
    files = {name: FOLDER / f"{name}.json" for name in ROWS}
    there = {name: file for name, file in files.items() if file.is_file()}
    return {n: validate(read_json(f), Record, paths.shown(f)) for n, f in there.items()}


def _of_release(domain: str, *, card: bool) -> Record:
    taken = [attempt for attempt in read_attempts(domain) if attempt.outcome == "taken"]
    if not taken:
        raise UserError(f"{domain}: nothing was released here; run `./inv release` first")
    keys = taken[0].keys
    made = {stage: Manifest.read(paths.build() / stage / key) for stage, key in keys.items()}
    count = made["source"].measurements["parameters"].value
    size = made["package"].measurements["q4f16_bytes"].value
    adapter, folder = made["bench"].facts.get("adapter") or {}, release_folder(domain)
    costs = {
        stage: StageCost(seconds=m.wall_seconds, peak_bytes=m.peak_rss_bytes)
        for stage, m in made.items()
    }
    return Record(
        model=taken[0].base,
        parameters=count if isinstance(count, int) else None,
        taken=max(m.finished for m in made.values())[:10],
        cores=os.cpu_count() or 1,
        memory_bytes=_memory(),
        adapter=str(adapter.get("description") or ""),
        seconds=round(sum(cost.seconds for cost in costs.values()), 1),
        stages=costs,
        disk_bytes=on_disk(folder, *(paths.build() / stage / key for stage, key in keys.items())),
        download_bytes=size if isinstance(size, int) else None,
        unfinished=next((m.unfinished for m in made.values() if m.unfinished), None),
        card=card_beginning((folder / CARD_FILE).read_text(encoding="utf-8")) if card else "",
    )


def _of_set_up(root: Path) -> Record:
    log = root / VENV_LOG
    said = SET_UP_SAYS.search(log.read_text(encoding="utf-8")) if log.is_file() else None
    if not said:
        raise UserError(f"{VENV_LOG}: no set-up was finished here; run `./inv` in a fresh clone")
    made = (root / ".venv", root / "shared" / "webgpu_bench" / "node_modules")
    when = datetime.fromtimestamp(log.stat().st_mtime, UTC).date().isoformat()
    return Record(
        taken=when,
        cores=os.cpu_count() or 1,
        memory_bytes=_memory(),
        seconds=float(said[1]),
        disk_bytes=on_disk(*made),
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def on_disk(*folders: Path) -> int:
    """Bytes on the disk; a file with several names in them counts once."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found[path.stat().st_ino] = path.stat().st_blocks * 512
    return sum(found.values())


def card_beginning(card: str) -> str:
    """What the card says first: from its title to its table, without sizes and use."""
    said = card.partition("\n# ")[2].partition("\n")[2].partition("\n## Use it")[0]
    return said.partition("\n**Size**")[0].strip()


def cost_table() -> str:
    """Markdown: a row for each record; below it how and when they were taken."""
    records = read_records()
    rows = [_row(name, records.get(name)) for name in ROWS]
    heads = ("", "time in all", *PARTS, "peak memory", "disk", "download")
    return f"{table(heads, rows)}\n\n{_below(records)}"


def _row(name: str, record: Record | None) -> tuple[str, ...]:
    if record is None:
        why = NOT_MEASURED.get(name, NO_RECORD)
        return (ROWS[name], f"not measured: {why}", *[""] * (len(PARTS) + 3))
    parts = [
        sum(record.stages[stage].seconds for stage in stages if stage in record.stages)
        for stages in PARTS.values()
    ]
    peak = max((cost.peak_bytes for cost in record.stages.values()), default=0)
    return (
        ROWS[name],
        duration(record.seconds),
        *(duration(seconds) if seconds else "" for seconds in parts),
        number(peak, "B") if peak else "",
        number(record.disk_bytes, "B"),
        number(record.download_bytes, "B") if record.download_bytes else "",
    )


def _below(records: dict[str, Record]) -> str:
    """How they were taken; the machine once, where it was one."""
    machines = {_machine(record) for record in records.values()}
    one = len(machines) == 1
    told = [f"All on {machines.pop()}."] if one else []
    return " ".join([*told, *(_about(name, record, one) for name, record in records.items())])


def _machine(record: Record) -> str:
    return f"{record.cores} cores, {record.memory_bytes / 1e9:.0f} GB of memory"


def _about(name: str, record: Record, one: bool) -> str:
    size = f", {record.parameters / 1e9:.3g} billion parameters" if record.parameters else ""
    parts = [f"{record.model}{size}" if record.model else "", "" if one else _machine(record)]
    parts += [f"browser on {record.adapter}" if record.adapter else "", record.taken, record.note]
    left = f" Left for want of time: {record.unfinished}." if record.unfinished else ""
    return f"*{ROWS[name].split(':')[0]}*: {'; '.join(p for p in parts if p)}.{left}"


def card_quote() -> str:
    """The beginning of the example's card, as a quotation in Markdown."""
    record = read_records().get(EXAMPLE)
    text = record.card if record else f"not measured: {NO_RECORD}"
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", nargs="+", metavar=("NAME", "DOMAIN"), help=", ".join(ROWS))
    parser.add_argument("--root", type=Path, default=paths.root(), help="where it was released")
    parser.add_argument("--note", default="", help="what else must be known of that run")
    parser.add_argument("--card", action="store_true", help="the beginning of the example's card")
    asked = parser.parse_args()
    if asked.keep:
        name, domain = (*asked.keep, "")[:2]
        print(keep(name, domain, asked.root, asked.note).relative_to(paths.REPOSITORY))
    else:
        print(card_quote() if asked.card else cost_table())


if __name__ == "__main__":
    main()
