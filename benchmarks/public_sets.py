"""`python -m benchmarks.public_sets`: the public sets in the form of our schemas, for `--records-file`.

Writes build/public/<domain>/eval.jsonl, which is not published, and says what became of each field: one
that our schema has not is left out, one that the set has not is not judged. Hearsay rows whose gold
contradicts our prompt (`benchmarks.party_admissions`) are left out as well, and named.

    ./inv check --domain legal --records-file build/public/legal/eval.jsonl --records all
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.party_admissions import SETS, contradictions
from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.parsing import loads_strictly, read_text
from shared.domain.domain import Domain, domain_names, load_domain
from shared.domain.records import Record

FILE = "eval.jsonl"


@dataclass(frozen=True)
class Mapped:
    """A public set in our form; fields that were left out or are missing, and rows left out."""

    records: tuple[Record, ...]
    dropped: list[str]
    missing: list[str]
    contradicting: list[str]


def mapped(domain: Domain, sets: Path) -> Mapped:
    """The domain's public records; their gold has those of our fields that the set knows."""
    rows = rows_of(sets / domain.name / FILE)
    ours, theirs = set(domain.schema["properties"]), {key for row in rows for key in row["gold"]}
    against = [found for found, stated in contradictions(rows) if stated]
    records = [
        Record.model_validate({**row, "gold": {k: v for k, v in row["gold"].items() if k in ours}})
        for row in rows
        if row["id"] not in against
    ]
    return Mapped(tuple(records), sorted(theirs - ours), sorted(ours - theirs), against)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The lines of a public set; its schema is its own."""
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            where = f"{paths.shown(file)}:{number}"
            try:
                row = loads_strictly(line)
            except ValueError as error:
                raise UserError(f"{where}: not valid JSON: {error}") from None
            if not isinstance(row, dict) or not {"id", "input", "gold"} <= row.keys():
                raise UserError(f"{where}: an object with id, input and gold is wanted")
            rows.append(row)
    return rows


def write_set(domain: Domain, sets: Path) -> tuple[Path, Mapped]:
    """build/public/<domain>/eval.jsonl."""
    found = mapped(domain, sets)
    lines = [json.dumps(r.model_dump(exclude_none=True), ensure_ascii=False) for r in found.records]
    file = paths.build() / "public" / domain.name / FILE
    return write_text(file, "".join(f"{line}\n" for line in lines)), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, default=SETS, help="a folder with <domain>/eval.jsonl")
    asked = parser.parse_args()
    for name in domain_names():
        if (asked.sets / name / FILE).is_file():
            file, found = write_set(load_domain(name), asked.sets)
            print(f"{paths.shown(file)}: {len(found.records)} records")
            print(f"  left out: {', '.join(found.dropped) or 'no field'}")
            print(f"  not judged: {', '.join(found.missing) or 'no field'}")
            if found.contradicting:
                print(f"  gold contradicts the prompt: {', '.join(found.contradicting)}")


if __name__ == "__main__":
    main()
