"""`./inv bench-build`: a full-size model built by us and by the stock toolchain, in one run.

Each build runs in a process of its own, whose resident memory is sampled every 50 ms, memory-mapped
pages included. (The system's own account, ru_maxrss, starts from the parent's memory.)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.full_size import ARCHITECTURES, BLOCK_SIZE, full_size_model
from shared import paths
from shared.card.tables import table
from shared.errors import UserError
from shared.manifest import Strict
from shared.progress import say
from shared.strict import nearest
from shared.units import number

DOCUMENT = paths.REPOSITORY / "docs" / "full-size.md"
OURS = "this repository"
STOCK = "onnxruntime-genai's builder"
MENDED = "the same, SmolLM3's NoPE layers mended by us"
STOCK_MODULE = "onnxruntime_genai.models.builder"
MENDED_MODULE = "benchmarks.stock_mended"
TOOLS = {OURS: "ours", STOCK: "stock", MENDED: "mended"}


class Build(Strict):
    """One build: seconds, peak resident bytes, bytes of graph and data; `error` where it failed."""

    architecture: str
    tool: str
    seconds: float
    peak_rss_bytes: int
    bytes: int | None = None
    generates: str = ""
    error: str | None = None


def bench_build(architecture: str) -> list[Build]:
    """Build it both ways, load both results, write the rows to docs/full-size.md.

    Where the stock tool fails on SmolLM3, it is run once more with its one error mended, so that
    there is something to hold ours against.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"--arch: no {architecture!r}; {nearest(architecture, list(ARCHITECTURES))}"
        )
    model = full_size_model(architecture)
    out = paths.build() / "bench-build" / architecture
    shutil.rmtree(out, ignore_errors=True)
    commands = {OURS: _our_command(architecture, model, out / "ours")}
    commands[STOCK] = _stock_command(architecture, model, out / "stock")
    if architecture == "smollm3":
        commands[MENDED] = _stock_command(architecture, model, out / "mended", MENDED_MODULE)
    builds = [_measured(architecture, t, c, out / TOOLS[t]) for t, c in commands.items()]
    _remember(builds)
    profile_build(architecture)
    return builds


def profile_build(architecture: str) -> dict[str, float]:
    """Where our build's seconds go, both numeric types in one pass; kept for docs/performance.md."""
    model = full_size_model(architecture)
    folder = paths.build() / "bench-build"
    out = folder / architecture / "profile"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    say(f"{architecture}: building both numeric types under a profiler")
    block = str(BLOCK_SIZE[architecture])
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile_once", str(model), str(out), block],
        cwd=paths.REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    parts = dict(json.loads(run.stdout.strip().splitlines()[-1]))
    (folder / f"{architecture}-profile").write_text(json.dumps(parts) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    return parts


def _our_command(architecture: str, model: Path, out: Path) -> list[str]:
    block = str(BLOCK_SIZE[architecture])
    return [sys.executable, "-m", "benchmarks.build_once", str(model), str(out), block]


def _stock_command(
    architecture: str, model: Path, out: Path, module: str = STOCK_MODULE
) -> list[str]:
    """The released builder with the options that come nearest to ours."""
    tied = ARCHITECTURES[architecture][1]["tie_word_embeddings"]
    embedding = "shared_embeddings=true" if tied else "op_types_to_quantize=MatMul/Gather"
    block = f"block_size={BLOCK_SIZE[architecture]}"
    words = ["-m", str(model), "-i", str(model), "-o", str(out), "-p", "int4", "-e", "webgpu"]
    words += ["-c", str(out / "cache"), "--extra_options", embedding, block]
    return [sys.executable, "-m", module, *words]


def _measured(architecture: str, tool: str, command: list[str], out: Path) -> Build:
    say(f"{architecture}: building with {tool}")
    out.mkdir(parents=True)
    with (out / "log").open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=paths.REPOSITORY, stdout=log, stderr=log)
        peak = _watch(process)
        seconds = time.monotonic() - started
    build = Build(architecture=architecture, tool=tool, seconds=seconds, peak_rss_bytes=peak)
    if process.returncode != 0:
        lines = (out / "log").read_text(errors="replace").strip().splitlines()
        return build.model_copy(update={"error": lines[-1][:200] if lines else "no output"})
    size = sum(p.stat().st_size for p in out.glob("model*.onnx*"))
    return build.model_copy(update={"bytes": size, "generates": _generates(out)})


def _watch(process: subprocess.Popen[bytes], every_seconds: float = 0.05) -> int:
    """Wait for the process; the largest resident memory seen, in bytes."""
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, int(watched.memory_info().rss))
        time.sleep(every_seconds)
    return peak


def _generates(folder: Path) -> str:
    """Load in onnxruntime-genai on the CPU and generate 16 tokens; tokens/s, or the error."""
    say("      loading it and generating 16 tokens on the CPU")
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.generate_once", str(folder)],
        cwd=paths.REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (run.stdout if run.returncode == 0 else run.stderr).strip().splitlines()
    return lines[-1][:120] if lines else "no output"


def render(builds: list[Build], style: str = "github") -> str:
    """The rows; where both were built, what the other tool took as a multiple of ours."""
    ours = {build.architecture: build for build in builds if build.tool == OURS}
    rows = [
        (
            build.architecture,
            build.tool,
            number(build.bytes, "B") if build.bytes else "none",
            number(build.seconds, "s") + _times(build, ours.get(build.architecture), "seconds"),
            number(build.peak_rss_bytes, "B")
            + _times(build, ours.get(build.architecture), "peak_rss_bytes"),
            build.error or build.generates,
        )
        for build in builds
    ]
    heads = (
        "model",
        "built by",
        "q4f16",
        "wall",
        "peak memory",
        "generates on the CPU, or the error",
    )
    return table(heads, rows, style)


def _times(build: Build, ours: Build | None, figure: str) -> str:
    """` (3.1×)`: the build's figure as a multiple of ours; empty for ours and for what failed."""
    if ours is None or build is ours or build.error or ours.error:
        return ""
    return f" ({getattr(build, figure) / getattr(ours, figure):.1f}×)"


def _remember(builds: list[Build]) -> None:
    """Keep the newest builds of every architecture, and renew the document from all of them."""
    folder = paths.build() / "bench-build"
    for build in builds:
        name = f"{build.architecture}-{TOOLS[build.tool]}.json"
        (folder / name).write_text(build.model_dump_json(indent=2) + "\n")
    kept = [Build.model_validate_json(p.read_bytes()) for p in folder.glob("*.json")]
    kept.sort(key=lambda build: (build.architecture, list(TOOLS).index(build.tool)))
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = (
        "# Full-size models\n\n"
        "Written by `./inv bench-build --arch <name>`: random weights in the real shapes, 4-bit,\n"
        "the tools measured in one run on one machine "
        f"({cores} cores, {memory / 1e9:.0f} GB of memory, no GPU).\n\n"
        f"{render(kept)}\n"
    )
    DOCUMENT.write_text(text, encoding="utf-8")
