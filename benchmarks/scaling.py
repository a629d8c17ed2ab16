"""`./inv dev.bench-scaling`: what many domains cost, one after the other, side by side, on a cluster.

Small models, so that what is measured is our own overhead and how well domains share a machine, not
one large build (that is docs/full-size.md). Every run starts from nothing, in a process of its own,
and is counted from its start, imports included. Writes docs/performance.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.build_report import profile_text, profiles
from benchmarks.worlds import TEXT_TOKENS, add_ballast, disk_floor, make_world
from shared.base import paths
from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.manifest import Strict
from shared.base.processes import peak_memory
from shared.base.progress import say
from shared.base.tables import table

COUNTS = (1, 2, 4, 8, 16)
FULL_SIZE_BYTES = 6_150_000_000
WORKERS = 2
WAYS = {"one after the other": 1, f"--jobs {WORKERS}": WORKERS}
CLUSTER = f"Dask, {WORKERS} worker processes"
BUDGETED, BUDGET = f"--jobs {WORKERS}, with a budget", 2_500_000_000
DOCUMENT = paths.REPOSITORY / "docs" / "performance.md"
MakeWorld = Callable[[Path, int], Path]


class Run(Strict):
    """One run: how, over how many domains, wall seconds, and the most memory all of it held."""

    way: str
    domains: int
    seconds: float
    peak_rss_bytes: int


class Report(Strict):
    """Everything that docs/performance.md is written from."""

    version: int = 1
    machine: str
    load_before: float
    taken: str
    write_bytes_per_second: float
    read_bytes_per_second: float
    runs: list[Run]
    unchanged: list[Run]
    unchanged_source_bytes: int
    budgeted: Run | None = None
    budget_bytes: int = BUDGET
    profile: dict[str, dict[str, float]] = {}  # noqa: RUF012 (pydantic copies it)


def bench_scaling(
    counts: tuple[int, ...] = COUNTS,
    unchanged_bytes: int = FULL_SIZE_BYTES,
    document: Path = DOCUMENT,
    floor_bytes: int = 1 << 30,
    make_world: MakeWorld = make_world,
    until: str = "check",
) -> Report:
    """Measure it all and write the document; UserError where a domain failed. `until`: the stage that
    the runs that are compared come to."""
    folder = paths.build() / "bench-scaling"
    shutil.rmtree(folder, ignore_errors=True)
    load = os.getloadavg()[0]
    wrote, read = disk_floor(folder, floor_bytes)
    runs = [run for count in counts for run in _all_ways(folder, count, make_world, until)]
    most = min(4, max(counts))
    budgeted = _within_budget(make_world(folder / "budget", most), most, until)
    report = Report(
        machine=_machine(),
        load_before=load,
        taken=datetime.now(UTC).date().isoformat(),
        write_bytes_per_second=wrote,
        read_bytes_per_second=read,
        runs=runs,
        budgeted=budgeted,
        unchanged=_unchanged(make_world(folder / "unchanged", most), most, unchanged_bytes),
        unchanged_source_bytes=unchanged_bytes,
        profile=profiles(),
    )
    shutil.rmtree(folder, ignore_errors=True)
    (paths.build() / "bench-scaling.json").write_text(report.model_dump_json(indent=2) + "\n")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(render(report), encoding="utf-8")
    return report


def _all_ways(folder: Path, count: int, make_world: MakeWorld, until: str) -> Iterator[Run]:
    """The same domains every way, each from nothing."""
    root = make_world(folder / f"{count}-domains", count)
    for way, jobs in WAYS.items():
        yield _measured(root, way, count, until, jobs)
    with _cluster(root) as address:
        yield _measured(root, CLUSTER, count, until, 1, address)


def _within_budget(root: Path, count: int, until: str) -> Run:
    """Domains side by side under a stated budget of memory."""
    return _measured(root, BUDGETED, count, until, WORKERS, memory=BUDGET)


def _measured(
    root: Path,
    way: str,
    count: int,
    until: str,
    jobs: int,
    scheduler: str = "",
    tools: str = "",
    memory: int | None = None,
) -> Run:
    """One process over the root, from nothing unless it goes to the gates; its family's memory is
    watched."""
    if until != "gates":
        shutil.rmtree(root / "build", ignore_errors=True)
    say(f"{count} domains, {way}")
    words = [sys.executable, "-m", "benchmarks.release_once", until, str(jobs), scheduler]
    words += [str(memory)] if memory else []
    environment = _environment(root) | ({"PATH": tools} if tools else {})
    with (root / "log").open("ab") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            words, cwd=paths.REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=log
        )
        with peak_memory(itself=False) as peak:  # of all below this process, a cluster too
            process.wait()
        seconds = time.monotonic() - started
    said = process.stdout.read().decode().strip().splitlines() if process.stdout else []
    errors = json.loads(said[-1])["errors"] if said else [f"no answer; see {root / 'log'}"]
    if errors:
        raise UserError(f"bench-scaling: {way}: {errors[0]}")
    return Run(way=way, domains=count, seconds=seconds, peak_rss_bytes=peak[0])


def _environment(root: Path) -> dict[str, str]:
    return dict(os.environ) | {
        "DOCINTEL_ROOT": str(root),
        "HF_HUB_OFFLINE": "1",
        "OLIVE_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(paths.REPOSITORY),
    }


@contextmanager
def _cluster(root: Path) -> Iterator[str]:
    """A scheduler and WORKERS single-threaded workers on this machine; the scheduler's address."""
    file = root / "scheduler.json"
    file.unlink(missing_ok=True)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet |= {"cwd": paths.REPOSITORY, "env": _environment(root)}
    python = [sys.executable, "-m"]
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [subprocess.Popen([*python, "distributed.cli.dask_scheduler", *words], **quiet)]
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        address = str(json.loads(file.read_text())["address"])
        memory = int(psutil.virtual_memory().total / WORKERS)
        words = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory"]
        words += [str(root / "dask"), "--resources", f"MEMORY={memory} BROWSER=1"]
        worker = [*python, "distributed.cli.dask_worker", address, *words]
        started += [subprocess.Popen(worker, **quiet) for _ in range(WORKERS)]
        _wait_for_workers(address)
        yield address
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def _wait_for_workers(address: str) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(WORKERS, timeout=120)


def _unchanged(root: Path, count: int, size: int) -> list[Run]:
    """Release domains whose weights have full-size bytes, then again three times with nothing new.

    The PATH holds no browser, so that the bench stage says "not measured" at once; node is there, which
    renders the prompt.
    """
    for domain in sorted((root / "models").iterdir()):
        add_ballast(domain / "merged", size)
    tools = root / "tools"
    tools.mkdir(exist_ok=True)
    if node := shutil.which("node"):
        (tools / "node").symlink_to(node)
    _measured(root, "first release", count, "gates", 1, tools=str(tools))
    return [
        _measured(root, "unchanged release-all", count, "gates", 1, tools=str(tools))
        for _ in range(3)
    ]


def _machine() -> str:
    memory = psutil.virtual_memory().total
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory / 1e9:.0f} GB of memory, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def render(report: Report) -> str:
    """docs/performance.md."""
    return (
        "# Many domains\n\n"
        f"Written by `./inv dev.bench-scaling` on {report.taken}: {report.machine}.\n"
        f"The load of the machine was {report.load_before:.1f} when it began; every figure is one "
        "run, so\ntake differences of a fifth as noise, and of more where the load was over one.\n\n"
        f"The floor: this disk writes {number(report.write_bytes_per_second, 'B')} and reads "
        f"{number(report.read_bytes_per_second, 'B')} a second.\n\n"
        "## From nothing to checked\n\n"
        "Small models (about 18M values), each domain its own: build, package, fidelity "
        f"(over {TEXT_TOKENS:,} tokens) and\ncheck, no browser. "
        "Seconds from the start of the command to its end, and the most memory held by "
        "all of its\nprocesses.\n\n"
        f"{_scaling_table(report.runs)}\n\n"
        f"{_verdict(report.runs)}\n\n"
        f"{_budget_text(report)}"
        "## Nothing changed\n\n"
        f"`release-all` over {report.unchanged[0].domains} domains whose 16-bit weights have "
        f"{number(report.unchanged_source_bytes, 'B')} each (a small model and a\nhole in the file, "
        "which is hashed like any other weight):\n"
        f"{_median(report.unchanged):.2f} s, the median of {len(report.unchanged)} runs, "
        f"{number(max(r.peak_rss_bytes for r in report.unchanged), 'B')} of memory.\n"
        f"{profile_text(report.profile)}"
    )


def _scaling_table(runs: list[Run]) -> str:
    counts = sorted({run.domains for run in runs})
    ways = list(dict.fromkeys(run.way for run in runs))
    found = {(run.way, run.domains): run for run in runs}
    rows = [
        (
            str(count),
            *(
                f"{found[way, count].seconds:.1f} s, {number(found[way, count].peak_rss_bytes, 'B')}"
                for way in ways
            ),
        )
        for count in counts
    ]
    return table(("domains", *ways), rows, "github")


def _verdict(runs: list[Run]) -> str:
    """Which way was the fastest over the most domains, and by how much, whichever it was."""
    most = max(run.domains for run in runs)
    ordered = sorted((r for r in runs if r.domains == most), key=lambda run: run.seconds)
    first = ordered[0]
    others = [
        f"{run.way} took {run.seconds / first.seconds:.2f} times as long" for run in ordered[1:]
    ]
    return f"Over {most} domains **{first.way}** was the fastest; " + ", ".join(others) + "."


def _budget_text(report: Report) -> str:
    """The peak of the run with a budget, within it or not."""
    run = report.budgeted
    if run is None:
        return ""
    kept = "within" if run.peak_rss_bytes <= report.budget_bytes else "**over**"
    return (
        f"With `--memory-budget` of {number(report.budget_bytes, 'B')}, {run.domains} domains by "
        f"`--jobs {WORKERS}` took {run.seconds:.1f} s and held {number(run.peak_rss_bytes, 'B')} at "
        f"most, {kept} it.\n\n"
    )


def _median(runs: list[Run]) -> float:
    return statistics.median(run.seconds for run in runs)
