"""python -m examples.finetune --domain contracts --records train.jsonl"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from examples.finetune.released import family_base
from examples.finetune.run import Job, finetune
from examples.finetune.train import Recipe
from shared.base import paths
from shared.base.errors import UserError

OF_DEFAULTS = Path()
"""--on-released-base without a folder."""


def main() -> None:
    """Parse, train, say where the model lies; what a person can act on is one sentence."""
    parser = argparse.ArgumentParser("python -m examples.finetune", description=finetune.__doc__)
    parser.add_argument("--domain", required=True, help="a folder in domains/")
    parser.add_argument(
        "--records",
        required=True,
        type=Path,
        action="append",
        help="training records, JSONL; may be given again",
    )
    parser.add_argument(
        "--heldout",
        type=Path,
        action="append",
        default=[],
        help="records that must not be trained on, besides the domain's own and the eval.jsonl "
        "beside --records",
    )
    parser.add_argument(
        "--minutes", type=float, default=Recipe.minutes, help="of training, at most"
    )
    parser.add_argument("--epochs", type=float, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--replace", action="store_true", help="replace a merged/ made elsewhere")
    parser.add_argument("--to", type=Path, help="write the adapter alone, into this folder")
    parser.add_argument(
        "--on-released-base",
        type=Path,
        nargs="?",
        const=OF_DEFAULTS,
        help="train for the 4-bit base of the family in this folder; without a folder, of the one that "
        "defaults.toml names",
    )
    a = parser.parse_args()
    recipe = Recipe(minutes=a.minutes, epochs=a.epochs, seed=a.seed)
    try:
        released = family_base() if a.on_released_base is OF_DEFAULTS else a.on_released_base
        job = Job(
            a.domain,
            tuple(a.records),
            tuple(a.heldout),
            recipe,
            replace=a.replace,
            to=a.to,
            released=released,
        )
        print(paths.shown(finetune(job)))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
