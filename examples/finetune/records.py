"""Training records, held apart from every record that a model is later judged on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError
from shared.base.text import word_runs
from shared.domain.domain import Domain
from shared.domain.records import Record, read_records

RUN_WORDS = 8
OVERLAP = 0.5
"""From this share of common runs of eight words on, two texts count as the same passage."""

Runs = set[tuple[str, ...]]


@dataclass(frozen=True)
class Training:
    """What is trained on; `left_out`: ids of records too near to a held-out one."""

    records: tuple[Record, ...]
    left_out: tuple[str, ...]


def training_records(
    domain: Domain, files: Sequence[Path], heldout: Sequence[Path] = ()
) -> Training:
    """Read the files; near copies of held-out records are left out, real ones are an error.

    Held out are the domain's own records, an eval.jsonl beside a file, and the files of `heldout`.
    Raises UserError where an id or a whole text is a held-out one: that is the wrong file.
    """
    kept_apart = list(domain.records)
    for file in dict.fromkeys([*heldout, *(path.parent / "eval.jsonl" for path in files)]):
        if file in heldout or file.exists():
            kept_apart += read_records(file, domain.schema, partial=True)
    found = [
        keep_apart(read_records(path, domain.schema), kept_apart, paths.shown(path))
        for path in files
    ]
    return Training(
        tuple(record for part in found for record in part.records),
        tuple(name for part in found for name in part.left_out),
    )


def keep_apart(records: Sequence[Record], heldout: Sequence[Record], where: str) -> Training:
    """The records that may be trained on, by id, by text and by common runs of words."""
    ids, texts = {r.id for r in heldout}, {plain_words(r.input) for r in heldout}
    for record in records:
        if record.id in ids or plain_words(record.input) in texts:
            raise UserError(
                f"{where}: {record.id}: is a held-out record; what is trained on cannot be judged on"
            )
    others = [word_runs(record.input, RUN_WORDS) for record in heldout]
    near = {r.id for r in records if is_near(word_runs(r.input, RUN_WORDS), others)}
    kept = tuple(record for record in records if record.id not in near)
    if not kept:
        raise UserError(f"{where}: every record is nearly a held-out one; nothing is left")
    return Training(kept, tuple(sorted(near)))


def is_near(runs: Runs, others: Iterable[Runs]) -> bool:
    """Whether half of the shorter text's runs stand in the other one too."""
    return any(len(runs & other) >= OVERLAP * min(len(runs), len(other)) for other in others)


def plain_words(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
