"""`python -m benchmarks.evaluated`: base, 16-bit parent and 4-bit release over every domain's records.

Writes docs/measured.md: the embedded model on our own held-out records and on public ones
(`--sets`, a folder with <domain>/eval.jsonl), and the model of examples/finetune wherever a domain has
it; first how far the release is from its parent, token by token, then how both answer. Answers that
are there already are not asked for again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from benchmarks.public_sets import SETS, write_set
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.progress import say
from shared.domain.domain import domain_names, load_domain
from shared.pipeline.one_domain import run_until
from shared.pipeline.stages import Options
from shared.release.card.fidelity import fidelity_note, fidelity_table
from shared.release.card.quality import quality_note, quality_tables

DOCUMENT = paths.REPOSITORY / "docs" / "measured.md"
EMBEDDED, TUNED = "embedded", "smollm2"
HEAD = """# Base, 16-bit parent, 4-bit release

Written by `python -m benchmarks.evaluated` on {taken} ({cores} cores, {machine}, no GPU). What the rows
mean stands in [scoring.md](scoring.md), how the three are asked in [evaluation.md](evaluation.md).
The public sets are not part of this repository; each table's note names its records.
"""
TITLES = {
    EMBEDDED: "the embedded model, not fine-tuned",
    TUNED: "the model of examples/finetune",
}


def evaluate(sets: Path | None, records: str, document: Path = DOCUMENT) -> Path:
    """Check every domain and rung, renew the document; UserError where one could not be checked."""
    head = HEAD.format(
        taken=datetime.now(UTC).date(), cores=os.cpu_count(), machine=platform.machine()
    )
    parts = [head]
    for domain in domain_names():
        for rung in _rungs(domain):
            parts.append(f"## {domain}: {TITLES[rung]}")
            parts += [_trained(domain)] if rung == TUNED else []
            parts.append(_fidelity(domain, rung))
            parts += [_section(domain, rung, file, records) for file in _files(domain, sets)]
    write_text(document, "\n\n".join(parts) + "\n")
    return document


def _rungs(domain: str) -> list[str]:
    tuned = (paths.models(domain) / "adapter" / "finetune.json").is_file()
    return [EMBEDDED, TUNED] if tuned else [EMBEDDED]


def _files(domain: str, sets: Path | None) -> list[Path | None]:
    """None stands for the domain's own records; public ones are put into the form of ours."""
    if sets is None or not (sets / domain / "eval.jsonl").is_file():
        return [None]
    return [None, write_set(load_domain(domain), sets)[0]]


def _trained(domain: str) -> str:
    """What examples/finetune noted of its run."""
    note = json.loads((paths.models(domain) / "adapter" / "finetune.json").read_bytes())
    losses, near = note["losses_nats_per_token"], "left_out_as_near_copies_of_held_out_records"
    return (
        f"Trained on {note['records']:,} records ({len(note[near])} more were left out as near copies "
        f"of held-out ones): {note['steps']} steps over {note['examples_seen']:,} examples in "
        f"{note['seconds'] / 60:.1f} minutes. Loss: {losses[0]:.3g} nats a token of answer at the "
        f"first step, {fmean(losses[-10:]):.3g} over the last ten."
    )


def _fidelity(domain: str, rung: str) -> str:
    """How far the 4-bit model is from its parent on our own held-out text."""
    say(f"{domain}, {rung}: fidelity")
    result = run_until(domain, Options(rung=rung, until="fidelity"))
    if not result.chain or "fidelity" not in result.chain.stages:
        raise UserError(result.error or f"{domain}: fidelity was not measured")
    made = result.chain.manifests["fidelity"]
    return f"{fidelity_table(made.measurements)}\n\n{fidelity_note(made.facts)}"


def _section(domain: str, rung: str, file: Path | None, records: str) -> str:
    say(f"{domain}, {rung}: {'public' if file else 'our own'} records")
    options = Options(rung=rung, records=records or None, records_file=file, until="check")
    result = run_until(domain, options)
    if not result.chain or "check" not in result.chain.stages:
        raise UserError(result.error or f"{domain}: not checked")
    made = result.chain.manifests["check"]
    title = "Public records" if file else "Our own records"
    tables = quality_tables(made.measurements, made.facts)
    return f"### {title}\n\n{quality_note(made.facts)}\n\n{tables}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, default=SETS, help="a folder with <domain>/eval.jsonl")
    parser.add_argument("--records", default="", help="of each set: a number, or all")
    asked = parser.parse_args()
    set_variables()
    print(paths.shown(evaluate(asked.sets, asked.records)))


if __name__ == "__main__":
    main()
