"""`./inv dev.bench-build`: a full-size model built by us and by the stock tools, in one run.

Each build runs in a process of its own, whose resident memory is sampled every 50 ms, memory-mapped
pages included. (The system's own account, ru_maxrss, starts from the parent's memory.)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.build_report import (
    CALIBRATED,
    MENDED,
    OLIVE,
    OLIVE_MENDED,
    OURS,
    STOCK,
    TOOLS,
    UNCALIBRATED,
    Build,
    keep_profile,
    remember,
)
from benchmarks.calibrated_once import WITHOUT
from benchmarks.full_size import ARCHITECTURES, BLOCK_SIZE, full_size_model
from shared.base import paths
from shared.base.errors import UserError
from shared.base.parsing import nearest
from shared.base.processes import peak_memory
from shared.base.progress import say

STOCK_MODULE = "onnxruntime_genai.models.builder"
MENDED_MODULE = "benchmarks.stock_mended"
EXCEPTION = re.compile(r"(\w+\.)*\w*(Error|Exception)\b")


def bench_build(architecture: str) -> list[Build]:
    """Build it by every tool, load all results, write the rows to docs/full-size.md.

    The stock tools are run as released. Where they fail, they are run once more with what stops them
    mended, so that there is something to hold ours against.
    """
    model = _model(architecture)
    out = paths.build() / "bench-build" / architecture
    shutil.rmtree(out, ignore_errors=True)
    commands = {
        OURS: _once("benchmarks.build_once", architecture, model, out / TOOLS[OURS]),
        STOCK: _builder(architecture, model, out / TOOLS[STOCK]),
        OLIVE: _once("benchmarks.stock_olive", architecture, model, out / TOOLS[OLIVE]),
    }
    mended = ["mended"]
    if architecture == "smollm3":
        commands[MENDED] = _builder(architecture, model, out / TOOLS[MENDED], MENDED_MODULE)
        mended.append("nope")
    commands[OLIVE_MENDED] = [
        *_once("benchmarks.stock_olive", architecture, model, out / TOOLS[OLIVE_MENDED]),
        *mended,
    ]
    builds = [measured(architecture, t, c, out / TOOLS[t]) for t, c in commands.items()]
    profile_build(architecture)
    remember(builds)
    return builds


def bench_calibrated(architecture: str, *, feedback_free: bool = False) -> list[Build]:
    """Build it as a release is built, with the recipe that domains/ have by default.

    `feedback_free`: the same format and bytes without the hour of calibration; its row says so.
    """
    model = _model(architecture)
    tool = UNCALIBRATED if feedback_free else CALIBRATED
    out = paths.build() / "bench-build" / architecture / TOOLS[tool]
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-m", "benchmarks.calibrated_once", str(model), str(out)]
    builds = [measured(architecture, tool, words + feedback_free * [WITHOUT], out)]
    remember(builds)
    return builds


def _model(architecture: str) -> Path:
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"--arch: no {architecture!r}; {nearest(architecture, list(ARCHITECTURES))}"
        )
    return full_size_model(architecture)


def profile_build(architecture: str) -> dict[str, float]:
    """Where our build's seconds go, both numeric types in one pass; kept for the documents."""
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
    keep_profile(architecture, parts)
    shutil.rmtree(out, ignore_errors=True)
    return parts


def _once(module: str, architecture: str, model: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", module, str(model), str(out), str(BLOCK_SIZE[architecture])]


def _builder(architecture: str, model: Path, out: Path, module: str = STOCK_MODULE) -> list[str]:
    """The released builder with the options that come nearest to ours."""
    tied = ARCHITECTURES[architecture][1]["tie_word_embeddings"]
    embedding = "shared_embeddings=true" if tied else "op_types_to_quantize=MatMul/Gather"
    block = f"block_size={BLOCK_SIZE[architecture]}"
    words = ["-m", str(model), "-i", str(model), "-o", str(out), "-p", "int4", "-e", "webgpu"]
    words += ["-c", str(out / "cache"), "--extra_options", embedding, block]
    return [sys.executable, "-m", module, *words]


def measured(architecture: str, tool: str, command: list[str], out: Path) -> Build:
    """Run the command, which builds into `out`, watch its memory, load what it built."""
    say(f"{architecture}: building with {tool}")
    out.mkdir(parents=True)
    with (out / "log").open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=paths.REPOSITORY, stdout=log, stderr=log)
        with peak_memory(psutil.Process(process.pid)) as peak:
            process.wait()
        seconds = time.monotonic() - started
    build = Build(architecture=architecture, tool=tool, seconds=seconds, peak_rss_bytes=peak[0])
    if process.returncode != 0:
        return build.model_copy(update={"error": _error((out / "log").read_text(errors="replace"))})
    size = sum(p.stat().st_size for p in out.glob("model*.onnx*"))
    return build.model_copy(update={"bytes": size, "generates": _generates(out)})


def _error(log: str) -> str:
    """The line that says why: the last exception that the log names, else its last line."""
    lines = [line.strip() for line in log.strip().splitlines()] or ["no output"]
    named = [line for line in lines if EXCEPTION.match(line)]
    return (named or lines)[-1][:200]


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
