"""Where the GPU's time goes: onnxruntime-web's profiler prints an event a kernel; here is the sum.

An event's name is node & operator & kernel, its `dur` microseconds by the GPU's own timestamps.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate

from shared.webgpu_bench.result import Kernel

EVENT = '{"cat" :'
KERNELS_FILE = "kernels.md"
ROLE = re.compile(r"(lm_head|o_proj|gate_proj|up_proj|down_proj)")
SHOWN = 8
PHASES: tuple[Literal["prompt", "token"], ...] = ("prompt", "token")


def read_kernels(lines: Iterable[str]) -> list[Kernel]:
    """Per phase and kind of kernel, the slowest first; empty where nothing was profiled, or where a
    line was cut short: half a profile would mislead.

    The page reads a prompt in one pass, then one token in another: the second pass begins where the
    first pass's first node comes again.
    """
    try:
        passes = _passes(_events(lines))
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for phase, events in zip(PHASES, passes, strict=False):
        sums: dict[tuple[str, str], tuple[int, float]] = {}
        for node, kernel, milliseconds in events:
            role = ROLE.search(node)
            key = kernel, role[1] if role else ""
            count, total = sums.get(key, (0, 0.0))
            sums[key] = count + 1, total + milliseconds
        rows = [
            Kernel(phase=phase, kernel=name, role=role, dispatches=n, milliseconds=round(ms, 3))
            for (name, role), (n, ms) in sums.items()
        ]
        found += sorted(rows, key=lambda row: -row.milliseconds)
    return found


def _events(lines: Iterable[str]) -> Iterator[tuple[str, str, float]]:
    for line in lines:
        event: dict[str, Any] = json.loads(line.strip().rstrip(","))
        if event["cat"] == "Api" and event["name"].count("&") == 2:
            node, _, kernel = event["name"].split("&")
            yield node, kernel, event["dur"] / 1000


def _passes(events: Iterable[tuple[str, str, float]]) -> list[list[tuple[str, str, float]]]:
    passes: list[list[tuple[str, str, float]]] = []
    for event in events:
        again = passes and event[0] == passes[0][0][0] and len(passes[-1]) > 1
        if not passes or again:
            passes.append([])
        passes[-1].append(event)
    return passes


def kernels_table(kernels: list[Kernel], style: str = "github") -> str:
    """The slowest kernels of each phase with their share of its GPU time."""
    rows = []
    for phase in PHASES:
        own = [kernel for kernel in kernels if kernel.phase == phase]
        total = sum(kernel.milliseconds for kernel in own)
        rows += [
            (
                phase,
                f"{kernel.kernel} {kernel.role}".strip(),
                str(kernel.dispatches),
                f"{kernel.milliseconds:,.1f} ms",
                f"{100 * kernel.milliseconds / total:.1f} %",
            )
            for kernel in own[:SHOWN]
        ]
    headers = ("pass", "kernel", "dispatches", "GPU time", "share of the pass")
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def kernels_of(bench: Path) -> str:
    """The table a profiled bench left, or a sentence that there is none."""
    file = bench / KERNELS_FILE
    return file.read_text() if file.is_file() else "the browser's profiler told nothing"
