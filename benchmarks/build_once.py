"""Build q4f16 of a model folder through Olive, as `./inv build` does: MODEL OUT BLOCK_SIZE.

The builder pass alone: what calibration costs is another matter (docs/recipes.md), and random weights
need none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared.domain.domain import domain_names, load_domain
from shared.domain.olive_json import builder_pass
from shared.olive.workflow import run_workflow


def main(model: str, out: str, block_size: str) -> None:
    workflow = load_domain(domain_names()[0]).olive
    name, builder = builder_pass(workflow)
    workflow["passes"] = {name: builder | {"int4_block_size": int(block_size)}}
    run_workflow(workflow, Path(model), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
