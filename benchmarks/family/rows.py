"""The rows of docs/measured/family.json, each written as soon as it is made.

>>> kept = Kept.read(FIGURES)
>>> kept.row("form", "legal", "inputs", "int4").found["kl_divergence"].value
0.0742
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from shared.base import paths
from shared.base.files import write_text
from shared.base.manifest import Measurement, Strict
from shared.base.parsing import read_json, validate
from shared.domain.settings import Precision

FIGURES = paths.REPOSITORY / "docs" / "measured" / "family.json"
FORMS = ("initializers", "inputs", "merged")
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Part = Literal["base", "form", "precision", "speed", "nodes", "further", "browser"]
"""`base`: what is shared; `form`: a domain in one form; `precision`: its adapter stored so; `further`:
a domain that was added to a built family; `browser`: a step of a session in a page."""


class Row(Strict):
    """One thing that was measured; `domain`, `form` and `precision` are empty where it has none.

    `counts`: nodes by operator, or bytes by file.
    """

    part: Part
    domain: str = ""
    form: str = ""
    precision: str = ""
    found: dict[str, Measurement] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    taken: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.part, self.domain, self.form, self.precision


class Kept(Strict):
    """All rows, and what they were measured with. `adapters`: domain → what its adapter is; `hashes`:
    domain → the SHA-256 of its weights; `calibrated`: the domains whose text calibrated the base;
    `precision`: the family's."""

    machine: str = ""
    tools: dict[str, str] = Field(default_factory=dict)
    base: str = ""
    precision: str = ""
    calibrated: list[str] = Field(default_factory=list)
    adapters: dict[str, str] = Field(default_factory=dict)
    hashes: dict[str, str] = Field(default_factory=dict)
    rows: list[Row] = Field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Kept:
        """The rows of a file; none where there is no file, UserError where it is another's."""
        return validate(read_json(file), cls, paths.shown(file)) if file.is_file() else cls()

    def forget_others(self, adapters: dict[str, str], hashes: dict[str, str]) -> None:
        """Let go the rows of domains whose adapter is another one by now, and name the present ones."""
        was = {name: (self.adapters.get(name), self.hashes.get(name)) for name in adapters}
        changed = {
            name
            for name, (words, digest) in was.items()
            if words is not None and (words != adapters[name] or digest not in (None, hashes[name]))
        }
        gone = {"browser"} if changed else set()  # a session has several domains
        self.rows = [r for r in self.rows if r.domain not in changed and r.part not in gone]
        self.adapters, self.hashes = adapters, hashes

    def row(self, part: Part, domain: str = "", form: str = "", precision: str = "") -> Row | None:
        """The row, or None where it was not made so far."""
        wanted = (part, domain, form, precision)
        return next((row for row in self.rows if row.key == wanted), None)

    def measurement(
        self, name: str, part: Part, domain: str = "", form: str = "", precision: str = ""
    ) -> Measurement:
        """A measurement of that row; missing with its reason where there is no such row."""
        row = self.row(part, domain, form, precision)
        return row.found[name] if row else Measurement.missing("its run was not made")


def keep(kept: Kept, file: Path, row: Row, make: Callable[[Row], None]) -> None:
    """Fill the row by `make` and write all rows; one that is there already is not made again."""
    if kept.row(*row.key):  # type: ignore[arg-type]
        return
    make(row)
    row.taken = datetime.now(UTC).date().isoformat()
    kept.rows.append(row)
    write(kept, file)


def write(kept: Kept, file: Path) -> None:
    """Replace the file at once."""
    write_text(file, kept.model_dump_json(indent=1, exclude_defaults=True) + "\n")
