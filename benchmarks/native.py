"""A model's decode speed without a browser, against what the memory could deliver at most.

$ .venv/bin/python -m benchmarks.native --arch smollm3 --engine native-webgpu --bandwidth 3350
$ .venv/bin/python -m benchmarks.native --package build/package/<key> --engine native

The first builds the full-size random SmolLM3-3B as the pipeline does and runs it on the GPU through
onnxruntime's WebGPU provider (Dawn); 3350 is the GPU's memory bandwidth in GB/s, from its data sheet.
Without --bandwidth the CPU's is measured, by copying; for a GPU the fraction is then not measured.

One token reads every weight once, except an embedding of which it needs a single row, and the cache:
fraction = tokens/s x bytes per token / bandwidth.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks.full_size import ARCHITECTURES, BLOCK_SIZE, full_size_model
from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.formatting import number
from shared.base.progress import say
from shared.base.tables import table
from shared.olive.lint.files import byte_length
from shared.webgpu_bench.driver import has_gpu
from shared.webgpu_bench.engines import native, native_webgpu
from shared.webgpu_bench.engines.job import EngineRun, Job
from shared.webgpu_bench.engines.questions import context_of
from shared.webgpu_bench.report.tables import spread
from shared.webgpu_bench.speed import Figure, Points, figures, questions

ENGINES = {"native": native.run, "native-webgpu": native_webgpu.run}
COPY_BYTES = 256_000_000
LONGEST = 4096
"""Tokens of context that the longest question needs at most; Phi-3-mini has no more."""
DTYPE = "q4f16 or q4; by default q4 with --package and on a software adapter, which lacks f16"


@dataclass(frozen=True)
class Reads:
    """Bytes that one decoded token reads: weights, and cache for each token already in it."""

    weights: int
    cache_per_token: int

    def at(self, depth: int) -> int:
        return self.weights + depth * self.cache_per_token


def bytes_per_token(graph: Path) -> Reads:
    """From the graph: initializers that only a gather reads do not count, for it takes one row."""
    model = onnx.load(graph, load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in model.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    weights = 0
    for tensor in model.initializer:
        used_by = readers.get(tensor.name, set())
        if used_by and not all(op.startswith("Gather") for op in used_by):
            weights += byte_length(tensor)
    cache = 0
    for value in model.input:
        if value.name.startswith("past_key_values"):
            dims = value.type.tensor_type.shape.dim
            size = _item_bytes(value.type.tensor_type.elem_type)
            cache += dims[1].dim_value * dims[3].dim_value * size
    return Reads(weights, cache)


def _item_bytes(kind: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def copy_bandwidth(times: int = 10) -> float:
    """Bytes/s that this CPU reads and writes when every core copies its part; the best of `times`.

    Both buffers are written before: a first touch would measure the system handing out pages.
    """
    cores = os.cpu_count() or 1
    source, target = np.ones(COPY_BYTES // 8), np.zeros(COPY_BYTES // 8)
    parts = list(zip(np.array_split(target, cores), np.array_split(source, cores), strict=True))
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(times):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(*pair), parts))
            best = max(best, 2 * source.nbytes / (time.perf_counter() - started))
    return best


def built(architecture: str) -> Path:
    """The full-size random model as our pipeline builds it; a folder with model.onnx."""
    out = paths.build() / "bench-native" / architecture
    if not (out / "genai_config.json").is_file():
        say(f"{architecture}: writing random weights and building; minutes, 15 GB of disk")
        model = full_size_model(architecture)
        out.mkdir(parents=True, exist_ok=True)
        words = [str(model), str(out), str(BLOCK_SIZE[architecture])]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.build_once", *words],
            cwd=paths.REPOSITORY,
            check=True,
        )
    return out


def measure(graph_job: Job, engine: str, gigabytes: float | None) -> str:
    """The table; a point is one line."""
    run = ENGINES[engine](graph_job)
    reads = bytes_per_token(graph_job.graph)
    bandwidth, how = _bandwidth(run, engine, gigabytes)
    rows = [_row(figure, reads, bandwidth) for figure in figures(run.runs)]
    soft = " (software adapter: says nothing about a GPU)" if run.software_adapter else ""
    head = f"{engine}: {run.runtime} on {run.where}{soft}; bandwidth {how}"
    heads = ("test", "tokens/s", "n", "bytes a token", "of the bandwidth's limit")
    return f"{head}\n{table(heads, rows, 'rounded_outline')}"


def _bandwidth(run: EngineRun, engine: str, gigabytes: float | None) -> tuple[float | None, str]:
    if gigabytes:
        return gigabytes * 1e9, f"{gigabytes:g} GB/s, as given"
    if engine == "native" or run.software_adapter:
        found = copy_bandwidth()
        return found, f"{found / 1e9:.1f} GB/s, measured by copying"
    return None, "not measured: give the GPU's with --bandwidth"


def _row(figure: Figure, reads: Reads, bandwidth: float | None) -> tuple[str, ...]:
    head = (figure.name, spread(figure), str(len(figure.samples)))
    if figure.test == "prefill":
        return (*head, "", "not bound by it")
    size = reads.at(figure.tokens)
    return (*head, number(size, "B"), share_of_limit(figure.mean * size, bandwidth))


def share_of_limit(read: float, bandwidth: float | None) -> str:
    """Bytes/s that were read, of those that could be; more than all of it is no measurement."""
    if bandwidth is None:
        return "not measured: no bandwidth"
    if read > bandwidth:
        return f"not measured: {read / 1e9:.2f} GB/s were read, more than the bandwidth"
    return f"{100 * read / bandwidth:.1f} %"


def job_of(package: Path, dtype: str, seconds: float, *, short: bool) -> Job:
    """A job on a package, or on a folder with model.onnx; the prompt is token ids, any will do.

    What is longer than the model's own context is not asked.
    """
    points = Points((), (0,), 4, 0, 1) if short else Points((128, 512, 2048), (0, 512, 2048))
    ids = [1 + i * 7919 % 30_000 for i in range(2048)]
    context = context_of(package) if (package / "config.json").is_file() else LONGEST
    asked = questions(points, ids, min(context, LONGEST))
    return Job(package, asked, seconds, min(context, LONGEST), has_gpu(), dtype=dtype)


def _first_line() -> str:
    return (__doc__ or "").split("\n")[0]


def main(words: list[str]) -> int:
    """Print the table, or one sentence why not."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.native", description=(__doc__ or "").split("\n")[0]
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--arch", choices=sorted(ARCHITECTURES))
    what.add_argument("--package", type=Path, help="a packaged model, or a folder with model.onnx")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="native")
    parser.add_argument("--dtype", default="", choices=("q4f16", "q4"), help=DTYPE)
    parser.add_argument("--bandwidth", type=float, help="of the memory, in GB/s")
    parser.add_argument("--seconds", type=float, default=300)
    asked = parser.parse_args(words)
    short = asked.engine == "native-webgpu" and not has_gpu()
    dtype = asked.dtype or ("q4" if short or asked.package else "q4f16")
    try:
        package = built(asked.arch) if asked.arch else asked.package
        job = job_of(package, dtype, asked.seconds, short=short)
        if not job.graph.is_file():
            raise UserError(f"{paths.shown(job.graph)}: no such graph")
        print(measure(job, asked.engine, asked.bandwidth))
    except (RungFailed, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
