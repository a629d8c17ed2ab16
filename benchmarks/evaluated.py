"""`python -m benchmarks.evaluated`: base, 16-bit parent and 4-bit release over every domain's records.

Writes docs/measured/<domain>-<rung>.md, and from them the figures of docs/measured.md: the embedded
model on our own held-out records and on public ones (`--sets`, a folder with <domain>/eval.jsonl), and
the model of examples/finetune wherever a domain has it; first how far the release is from its parent,
token by token, then how both answer. Answers that are there already are not asked for again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from benchmarks.public_sets import SETS, write_set
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.progress import say
from shared.cli.readme import renew
from shared.domain.domain import domain_names, load_domain
from shared.pipeline.one_domain import run_until
from shared.pipeline.stages import Options
from shared.release.card.fidelity import fidelity_note, fidelity_table
from shared.release.card.quality import quality_note, quality_tables

NOTE = "finetune.json"
PAGES = paths.REPOSITORY / "docs" / "measured"
FINDINGS = paths.REPOSITORY / "docs" / "measured.md"
EMBEDDED, TUNED, EXAMPLE = "embedded", "smollm2", "example"
HEAD = """# {domain}: {title}

Written by `python -m benchmarks.evaluated` on {taken} ({cores} cores, {machine}). What the rows
mean stands in [scoring.md](../scoring.md), how the three are asked in
[evaluation.md](../evaluation.md).
A public set is not part of this repository; its table's note names its records.
"""
TITLES = {
    EMBEDDED: "the embedded model, not fine-tuned",
    TUNED: "the model of examples/finetune",
    EXAMPLE: "the embedded model with the adapter in examples/adapters",
}


def evaluate(
    sets: Path | None,
    records: str,
    folder: Path = PAGES,
    rungs: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
) -> list[Path]:
    """Check these domains and rungs (None: all), write a page of each; UserError where one could not be
    checked, and then none is written."""
    texts = {
        f"{domain}-{rung}.md": _page(domain, rung, sets, records)
        for domain in domains or domain_names()
        for rung in _rungs(domain)
        if not rungs or rung in rungs
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [write_text(folder / name, text) for name, text in texts.items()]


def _page(domain: str, rung: str, sets: Path | None, records: str) -> str:
    taken, cores, machine = datetime.now(UTC).date(), os.cpu_count(), platform.machine()
    head = HEAD.format(domain=domain, title=TITLES[rung], taken=taken, cores=cores, machine=machine)
    parts = [head, *([_trained(domain, rung)] if rung in (TUNED, EXAMPLE) else [])]
    parts += [_fidelity(domain, rung)]
    parts += [_section(domain, rung, file, records) for file in _files(domain, sets)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _rungs(domain: str) -> list[str]:
    return [EMBEDDED, *(rung for rung in (TUNED, EXAMPLE) if _note(domain, rung).is_file())]


def _note(domain: str, rung: str) -> Path:
    """Where examples/finetune notes its run."""
    examples = paths.root() / "examples" / "adapters" / domain
    return (examples if rung == EXAMPLE else paths.models(domain) / "adapter") / NOTE


def _files(domain: str, sets: Path | None) -> list[Path | None]:
    """None stands for the domain's own records; public ones are put into the form of ours."""
    if sets is None:
        return [None]
    if not (sets / domain / "eval.jsonl").is_file():
        say(f"{domain}: {sets / domain / 'eval.jsonl'} is not there, so our own records alone")
        return [None]
    return [None, write_set(load_domain(domain), sets)[0]]


def _trained(domain: str, rung: str) -> str:
    """What examples/finetune noted of its run."""
    note = json.loads(_note(domain, rung).read_bytes())
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
    return f"## {title}\n\n{quality_note(made.facts)}\n\n{tables}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = SETS if SETS.is_dir() else None
    words = "a folder with <domain>/eval.jsonl; default: %(default)s"
    parser.add_argument("--sets", type=Path, default=here, help=words)
    parser.add_argument("--records", default="", help="of each set: a number, or all")
    parser.add_argument("--domain", choices=domain_names(), action="append", help="default: all")
    parser.add_argument("--rung", choices=list(TITLES), action="append", help="default: all")
    asked = parser.parse_args()
    set_variables()
    try:
        for page in evaluate(asked.sets, asked.records, rungs=asked.rung, domains=asked.domain):
            print(paths.shown(page))
    except UserError as error:
        sys.exit(f"error: {error}")
    renew([FINDINGS])


if __name__ == "__main__":
    main()
