"""Build q4f16 and q4 of a model folder under a profiler, say where the seconds went: MODEL OUT BLOCK.

Prints one JSON object: part of the work → wall seconds. The parts do not overlap.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import time
from pathlib import Path


def main(model: str, out: str, block_size: str) -> None:
    started = time.monotonic()
    from shared.domain.domain import domain_names, load_domain
    from shared.domain.olive_json import builder_pass
    from shared.olive.workflow import run_workflow

    parts = {"import torch, Olive, Mobius": time.monotonic() - started}
    workflow = load_domain(domain_names()[0]).olive
    name, builder = builder_pass(workflow)
    workflow["passes"] = {name: builder | {"int4_block_size": int(block_size)}}
    profile = cProfile.Profile()
    started = time.monotonic()
    profile.runcall(run_workflow, workflow, Path(model), Path(out), both=True)
    total = time.monotonic() - started
    parts |= _parts(profile)
    parts["Olive itself and the rest"] = total - sum(list(parts.values())[1:])
    print(json.dumps(parts))


def _parts(profile: cProfile.Profile) -> dict[str, float]:
    """Cumulative seconds of the functions that the work is made of."""
    names = {
        ("shared/olive/graph/mobius.py", "build_graph"): "two bare graphs",
        ("shared/olive/quantise/nearest.py", "quantize"): "read and quantise, all cores",
        ("~", "<method 'write' of '_io.BufferedWriter' objects>"): "write both files",
        ("~", "<method 'update' of '_hashlib.HASH' objects>"): "hash what is written",
        ("shared/base/hashing.py", "sha256_file"): "hash the source, where it is not remembered",
    }
    found = dict.fromkeys(names.values(), 0.0)
    for (file, _, function), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for (end, name), part in names.items():
            if function == name and file.endswith(end):
                found[part] += row[3]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
