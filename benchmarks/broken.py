"""A release whose browser gets one wrong number, at any size: whether it is found, and where.

$ python -m benchmarks.broken --domain legal --weight model.layers.7.mlp.down_proj.weight

One scale of one block is doubled in a copy of the data file that the browser gets; all else is
`./inv release`, whose other options may follow, and what an earlier one has done is not done again. The
bench is kept under a key of its own. Exit code 0: the release ended with 1 and named the layer, and the
release folder is as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo

import tasks
from shared.base import paths
from shared.base.errors import UserError
from shared.base.parsing import nearest
from shared.base.stage import Plan
from shared.cli.program import Program
from shared.pipeline.one_domain import read_attempts
from shared.release.model import read_release, release_folder
from shared.webgpu_bench import driver, layers

SCALES = "_scales"
PLANNED = "shared.webgpu_bench.stage.Plan"
Serve = Callable[[Path], Path]


def main(words: list[str]) -> int:
    """Release, and say how it ended: 0 where the fault was found in its layer, else 1."""
    parser = argparse.ArgumentParser(prog="benchmarks.broken")
    parser.add_argument("--domain", required=True)
    parser.add_argument("--weight", required=True, help="like model.layers.7.mlp.down_proj.weight")
    parser.add_argument("--block", type=int, default=0, help="which of its scales is doubled")
    asked, others = parser.parse_known_args(words)
    before, earlier = _release(asked.domain), read_attempts(asked.domain)
    paths.build().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.build()) as folder:
        code = _run(asked.domain, others, Path(folder), asked.weight, asked.block)
    attempts = [a for a in read_attempts(asked.domain) if a not in earlier]
    reason = next((a.reason for a in attempts if a.outcome == "failed"), "no rung failed")
    after = _release(asked.domain)
    named = any(f" {place} differs by " in f" {reason}" for place in places(asked.weight))
    found = code == 1 and named and before == after
    taken = next((a.rung for a in attempts if a.outcome == "taken"), "none")
    print(f"\none scale of {asked.weight} doubled in what the browser gets")
    print(f"exit code {code}; rung taken: {taken}")
    print(f"reason: {reason}")
    print(f"{' or '.join(places(asked.weight))} named: {'yes' if named else 'no'}")
    print(f"{paths.shown(release_folder(asked.domain))}: {after}; before: {before}")
    print("found" if found else "NOT FOUND")
    return 0 if found else 1


def _run(domain: str, others: list[str], folder: Path, weight: str, block: int) -> int:
    """`./inv release` with the fault in what the browser gets; its exit code."""

    @cache
    def serve(package: Path) -> Path:
        return broken_copy(package, folder / package.name, weight, block)

    with planted(serve, f"{weight}{SCALES}[{block}]"):
        try:
            Program(tasks.namespace).run(["inv", "release", "--domain", domain, *others])
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@contextmanager
def planted(serve: Serve, what: str) -> Iterator[None]:
    """Within it the browser gets `serve(package)` in each package's place, and only the browser.

    `what` goes into the bench's key, so that no release takes this bench for its own.
    """
    run: Callable[..., Any] = driver.run_in_browser
    compare: Callable[..., Any] = layers.compare_layers

    def plan(stage: str, *, settings: dict[str, Any], **more: Any) -> Plan:
        return Plan(stage, settings=settings | {"planted": what}, **more)

    with (
        patch.object(driver, "run_in_browser", lambda p, *a, **k: run(serve(p), *a, **k)),
        patch.object(
            layers, "compare_layers", lambda p, *a, **k: compare(p, *a, **k, served=serve(p))
        ),
        patch(PLANNED, plan),
    ):
        yield


def broken_copy(package: Path, folder: Path, weight: str, block: int) -> Path:
    """The package in hard links, but for the data files, in which one scale is doubled.

    UserError where no graph of the package has that weight or block, naming the nearest one.
    """

    def copy(source: str, target: str) -> None:
        (shutil.copyfile if ".onnx_data" in Path(source).name else os.link)(source, target)

    shutil.copytree(package, folder, copy_function=copy)
    for graph in sorted((folder / "onnx").glob("model_*.onnx")):
        double_scale(graph, weight, block)
    return folder


def double_scale(graph: Path, weight: str, block: int) -> None:
    """Double one scale of the weight, in the graph's data file; see broken_copy."""
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    scales = {t.name.removesuffix(SCALES): t for t in tensors if t.name.endswith(SCALES)}
    if weight not in scales:
        raise UserError(
            f"{graph.name}: no 4-bit weight {weight!r}; {nearest(weight, list(scales))}"
        )
    place = ExternalDataInfo(scales[weight])
    kind = onnx.helper.tensor_dtype_to_np_dtype(scales[weight].data_type)
    count = int(place.length or 0) // kind.itemsize
    if not 0 <= block < count:
        raise UserError(f"{graph.name}: {weight} has {count} blocks; there is no block {block}")
    data = graph.parent / place.location
    values = np.memmap(data, kind, "r+", int(place.offset or 0), (count,))
    values[block] *= 2
    values.flush()


def places(weight: str) -> list[str]:
    """The pieces that a weight may show in first, as layers.py names them."""
    found = re.search(r"\blayers\.(\d+)\.", weight)
    return [f"layer {found[1]}"] if found else ["embeddings", "head"]


def _release(domain: str) -> str:
    """Rung and key of the release that lies there."""
    try:
        release = read_release(release_folder(domain))
    except UserError:
        return "no release"
    return f"{release.rung} {release.key}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
