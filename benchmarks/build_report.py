"""docs/full-size.md: every tool's newest build of every model, and where ours spends its time."""

from __future__ import annotations

import json
import os

from benchmarks import full_size_release
from shared.base import paths
from shared.base.formatting import number
from shared.base.manifest import Strict
from shared.base.tables import table

DOCUMENT = paths.REPOSITORY / "docs" / "full-size.md"
RELEASED = """
## Through the stages, and in a browser

What `./inv release` took, or as much of it as `./inv bench` goes through, beside what the dry run
tells, and what a software WebGPU adapter computed of the released file beside onnxruntime's CPU.

<!-- generated Markdown: python -m benchmarks.full_size_release -->

"""
OURS = "this repository"
CALIBRATED = "the same, calibrated, as a release is built"
UNCALIBRATED = "a release's format, but not calibrated (`--feedback-free`)"
STOCK = "onnxruntime-genai's builder"
MENDED = "onnxruntime-genai's builder, SmolLM3's NoPE layers mended by us"
OLIVE = "Olive"
OLIVE_MENDED = "Olive, mended by us"
TOOLS = {
    OURS: "ours",
    CALIBRATED: "calibrated",
    UNCALIBRATED: "feedback-free",
    STOCK: "stock",
    MENDED: "mended",
    OLIVE: "olive",
    OLIVE_MENDED: "olive-mended",
}
OWN = (OURS, CALIBRATED, UNCALIBRATED)


class Build(Strict):
    """One build: seconds, peak resident bytes, bytes of graph and data; `error` where it failed."""

    architecture: str
    tool: str
    seconds: float
    peak_rss_bytes: int
    bytes: int | None = None
    generates: str = ""
    error: str | None = None


def render(builds: list[Build], style: str = "github") -> str:
    """The rows; where both were built, what the other tool took as a multiple of ours."""
    ours = {build.architecture: build for build in builds if build.tool == OURS}
    rows = [
        (
            build.architecture,
            build.tool,
            f"{build.bytes:,}" if build.bytes else "none",
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
        "q4f16, bytes",
        "wall",
        "peak memory",
        "generates on the CPU, or the error",
    )
    return table(heads, rows, style)


def _times(build: Build, ours: Build | None, figure: str) -> str:
    """` (3.1×)`: the build's figure as a multiple of ours; empty for our own and for what failed."""
    if ours is None or build.tool in OWN or build.error or ours.error:
        return ""
    return f" ({getattr(build, figure) / getattr(ours, figure):.1f}×)"


def remember(builds: list[Build]) -> None:
    """Keep the newest builds of every architecture, and renew the document from all of them."""
    folder = paths.build() / "bench-build"
    folder.mkdir(parents=True, exist_ok=True)
    for build in builds:
        name = f"{build.architecture}-{TOOLS[build.tool]}.json"
        (folder / name).write_text(build.model_dump_json(indent=2) + "\n")
    kept = [Build.model_validate_json(p.read_bytes()) for p in folder.glob("*.json")]
    kept.sort(key=lambda build: (build.architecture, list(TOOLS).index(build.tool)))
    DOCUMENT.write_text(document(kept, profiles()), encoding="utf-8")


def document(builds: list[Build], parts: dict[str, dict[str, float]]) -> str:
    """All of docs/full-size.md."""
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        "# Full-size models\n\n"
        "Written by `./inv dev.bench-build --arch <name>`: random weights in the real shapes, 4-bit, "
        "q4f16.\nEvery tool runs in a process of its own, whose resident memory is sampled; behind a "
        "figure stands\nits multiple of ours. "
        f"The machine: {cores} cores, {memory / 1e9:.0f} GB of memory, no GPU.\n\n"
        f"{render(builds)}\n\n"
        "Mended: Olive 0.13 patches a module that onnxruntime-genai 0.18 no longer has and hands its "
        "options on\nunder their old names (benchmarks/stock_olive.py); both give SmolLM3's layers "
        "without rope a\nRotaryEmbedding (benchmarks/stock_mended.py). Calibrated: "
        "`./inv dev.bench-build --arch <name> --calibrated`.\n"
        f"{profile_text(parts)}"
        f"{RELEASED}{full_size_release.section()}\n\n<!-- end -->\n"
    )


def keep_profile(architecture: str, parts: dict[str, float]) -> None:
    """Seconds of the parts of our build."""
    file = paths.build() / "bench-build" / f"{architecture}-profile"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(parts) + "\n")


def profiles() -> dict[str, dict[str, float]]:
    """Where the newest profiled full-size builds spent their seconds, by architecture."""
    files = sorted((paths.build() / "bench-build").glob("*-profile"))
    return {f.name.removesuffix("-profile"): json.loads(f.read_text()) for f in files}


def profile_text(parts: dict[str, dict[str, float]]) -> str:
    """A section with one column an architecture; empty where nothing was profiled."""
    if not parts:
        return ""
    names = list(dict.fromkeys(name for found in parts.values() for name in found))
    rows = [(n, *(f"{p[n]:.1f} s" if n in p else "" for p in parts.values())) for n in names]
    rows.append(("together", *(f"{sum(p.values()):.1f} s" for p in parts.values())))
    return (
        "\n## Where a full-size build spends its time\n\n"
        "Ours, q4f16 and q4 together, by `./inv dev.bench-build --arch <name>`, wall seconds under a "
        "profiler:\n\n"
        f"{table(('part', *parts), rows, 'github')}\n"
    )
