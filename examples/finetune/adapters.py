"""`python -m examples.finetune.adapters`: the adapters in examples/adapters, trained anew.

A domain's adapter learns from a public set's training rows in our form (`public.py`), from the domain's
calibration.jsonl, and from our own training records in examples/finetune/own. The public rows are other
people's text under their own licences and are not part of this repository; NOTICE names them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.public_sets import SETS, write_set
from examples.finetune.public import write_rows
from examples.finetune.run import Job, finetune
from examples.finetune.train import Recipe
from shared.base import paths
from shared.base.errors import UserError
from shared.base.progress import say
from shared.domain.domain import load_domain

PUBLIC = {
    "contracts": "CUAD v1 CC-BY-4.0",
    "financial": "TAT-QA CC-BY-4.0",
    "legal": "LegalBench CC-BY-4.0",
    "medical": "MTS-Dialog CC-BY-4.0",
}
"""Domain → the public set that its rows come from, and its licence."""
OWN = "our own records Apache-2.0"
ADAPTERS = paths.REPOSITORY / "examples" / "adapters"
RECORDS = Path(__file__).parent / "own"


def train_example(
    name: str,
    sets: Path,
    recipe: Recipe,
    to: Path = ADAPTERS,
    *,
    own: bool = False,
    start: Path | None = None,
) -> Path:
    """Train a domain's adapter and put it into `to`/<domain>. Nothing held out is learnt from.

    `own`: from our records alone, which ask what the domain's own held-out ones ask; public rows lean
    to what they have most of. `start`: a folder with <domain>/, an adapter to go on from."""
    domain = load_domain(name)
    write_set(domain, sets)  # lies beside the rows below, and so is held apart
    public = write_rows(domain, sets / name / "train.jsonl")
    ours = (domain.folder / "calibration.jsonl", RECORDS / f"{name}.jsonl")
    files, data = (ours, (OWN,)) if own else ((public, *ours), (PUBLIC[name], OWN))
    heldout = (public.with_name("eval.jsonl"),)
    begun = start / name if start else None
    return finetune(Job(name, files, heldout, recipe, to=to / name, data=data, start=begun))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--domain", choices=sorted(PUBLIC), action="append", help="default: all")
    parser.add_argument(
        "--sets", type=Path, default=SETS, help="a folder with <domain>/train.jsonl"
    )
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--epochs", type=float, default=Recipe.epochs)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--examples-per-pack", type=int, default=Recipe.examples_per_pack)
    parser.add_argument("--own", action="store_true", help="learn from our own records alone")
    parser.add_argument(
        "--start", type=Path, help="go on from the adapters in this folder, a copy of --to"
    )
    parser.add_argument("--to", type=Path, default=ADAPTERS, help="default: examples/adapters")
    asked = parser.parse_args()
    recipe = Recipe(
        asked.minutes,
        asked.epochs,
        learning_rate=asked.learning_rate,
        examples_per_pack=asked.examples_per_pack,
    )
    for name in asked.domain or sorted(PUBLIC):
        say(name)
        try:
            folder = train_example(
                name, asked.sets, recipe, asked.to, own=asked.own, start=asked.start
            )
        except UserError as error:
            sys.exit(f"error: {error}")
        print(paths.shown(folder))


if __name__ == "__main__":
    main()
