"""`python -m benchmarks.gpu pack`, `… measure` and `… document`; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.full_size import ARCHITECTURES
from benchmarks.gpu.document import DOCUMENT, read_results, write_document
from benchmarks.gpu.graphs import MODELS
from benchmarks.gpu.measure import main as measure
from benchmarks.gpu.pack import pack
from benchmarks.gpu.variants import VARIANTS
from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.olive.graph.shapes import GRAPH_TYPES

EVERY = "; more than once for several"


def main(words: list[str]) -> int:
    """Do it, or say in one sentence why not."""
    if words[:1] == ["measure"]:
        return measure(words[1:])
    asked = _parser().parse_args(words)
    try:
        if asked.what == "pack":
            names = asked.variant or [variant.name for variant in VARIANTS]
            python = None if asked.without_wheels else asked.python
            models = asked.model or list(ARCHITECTURES)
            print(pack(asked.out, models, asked.dtype or ["q4f16"], names, python))
        else:
            write_document(read_results(asked.results), asked.out)
            print(paths.shown(asked.out))
    except (RungFailed, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu")
    kinds = parser.add_subparsers(dest="what", required=True)
    packing = kinds.add_parser("pack", help="what a machine without a network needs, in parts")
    packing.add_argument("--out", type=Path, required=True)
    models = f"by default the full-size ones, whose random weights are made there{EVERY}"
    packing.add_argument("--model", action="append", choices=MODELS, help=models)
    packing.add_argument("--dtype", action="append", choices=sorted(GRAPH_TYPES), help="q4f16")
    kinds_of = [variant.name for variant in VARIANTS]
    packing.add_argument(
        "--variant", action="append", choices=kinds_of, help=f"by default all{EVERY}"
    )
    packing.add_argument("--python", default="3.12", help="its version there; Linux on x86-64")
    packing.add_argument("--without-wheels", action="store_true")
    kinds.add_parser("measure", help="what measure.py does there, here: --root is the folder")
    document = kinds.add_parser("document", help="docs/gpu.md from what came back")
    document.add_argument("--results", type=Path, required=True)
    document.add_argument("--out", type=Path, default=DOCUMENT)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
