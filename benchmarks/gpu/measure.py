"""Runs where the GPU is, with the standard library alone: measures what was packed, run after run.

$ python measure.py --seconds 540        # again and again: what is done is not done twice

results.json is written anew after each graph; send it back. Children read the graphs, in an
environment of their own (`site/`) that is installed from `wheels/` without any network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.carried import Refused, find_adapter, install, join_pieces, last_line
from benchmarks.gpu.memory import GpuMemory

PLAN, RESULTS, REFERENCE = "plan.json", "results.json", "cpu-logits-{positions}.npy"
DATA, TENSORS = "model.onnx_data", "tensors.json"
LEAST_SECONDS, GRACE_SECONDS = 20, 120
"""No graph is begun with less time; a child is ended so long after its time: it may be in a pass."""
GRAPH_SECONDS = {False: 150, True: 1500}
"""Of one graph, by default: on a GPU, and on a software adapter."""
HARDWARE = {"positions": 256, "single": 4, "prompt": 512, "warm_up": 1, "times": 5, "tokens": 64}
SOFTWARE = {"positions": 6, "single": 6, "prompt": 16, "warm_up": 0, "times": 1, "tokens": 1}
"""How much is read. A software adapter takes half a minute for a token; and on SwiftShader attention
is right in passes of one token only (docs/how-it-works.md), so there all are read one by one."""
DEPTHS = (0, 512, 2048)
FIGURES = (
    *("load_seconds", "parity_kl", "parity_top1", "parity_logits", "prefill"),
    *(f"decode_{depth}" for depth in DEPTHS),
    *("gpu_memory", "data_bytes"),
)
LATE, NOT_CARRIED = "the time was up when", "its weights were not carried"
NOT_RUN: dict[str, Any] = {"figures": {}, "facts": {}, "finished": False, "no_f16": False}
NO_F16 = re.compile(r"(?<![\w/.])(shader-)?f16(?![\w/.])", re.I)
"""What a sentence has that says that an adapter lacks half precision; a path with q4f16 has not."""


def main(words: list[str] | None = None) -> int:
    """Exit code 0 where all is measured, 2 where another run would go on, 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="measure.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="where it was unpacked")
    parser.add_argument("--seconds", type=float, default=540, help="of this run")
    parser.add_argument("--graph-seconds", type=float, help="of one graph, at most")
    parser.add_argument("--out", type=Path, help=f"by default {RESULTS} in the root")
    parser.add_argument("--only", default="", help="graphs whose name has this in it")
    parser.add_argument("--positions", type=int, help="to compare with the CPU")
    parser.add_argument("--python", help="an interpreter that has onnxruntime-webgpu already")
    asked = parser.parse_args(words)
    root = asked.root.resolve()
    try:
        run = Measuring(root, asked.out or root / RESULTS, asked.python, asked.positions)
        run.graph_seconds = asked.graph_seconds or run.graph_seconds
        return 0 if run.all(time.monotonic() + asked.seconds, asked.only) else 2
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


class Measuring:
    """What was packed in `root`, the adapter, and the results so far."""

    def __init__(self, root: Path, out: Path, python: str | None, positions: int | None) -> None:
        self.root, self.out, self.python = root, out, python or sys.executable
        self.plan = json.loads((root / PLAN).read_text(encoding="utf-8"))
        join_pieces(root)
        site = [] if python else [str(install(root))]
        self.adapter = find_adapter(root)
        path = {"PYTHONPATH": os.pathsep.join([*site, str(root)])}
        self.env = os.environ | self.adapter.env | path
        self.graph_seconds: float = GRAPH_SECONDS[self.adapter.software]
        self.limits = dict(SOFTWARE if self.adapter.software else HARDWARE)
        if positions:
            self.limits["positions"] = positions
            self.limits["single"] = min(self.limits["single"], positions)
        if self.adapter.software:
            self.limits["single"] = self.limits["positions"]
        self.results = self._begin()

    def _begin(self) -> dict[str, Any]:
        """The earlier results, where they are this pack's and this machine's."""
        machine = {
            "adapter": self.adapter.name,
            "software_adapter": self.adapter.software,
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
        head = {"version": 1, "machine": machine, "limits": self.limits, "made": self.plan["made"]}
        if not self.out.is_file():
            planned = {entry["name"]: _named(entry) | NOT_RUN for entry in self.plan["entries"]}
            return {**head, "date": time.strftime("%Y-%m-%d"), "runs": planned}
        before: dict[str, Any] = json.loads(self.out.read_text(encoding="utf-8"))
        if {key: before.get(key) for key in head} != head:
            raise Refused(f"{self.out}: results of another machine or pack; give another --out")
        return before

    def all(self, until: float, only: str) -> bool:
        """Measure in the plan's order, first what was never begun; whether all is measured now."""
        wanted = [entry for entry in self.plan["entries"] if only in entry["name"]]
        for again in (False, True):
            for entry in wanted:
                begun = bool(self.results["runs"][entry["name"]]["figures"])
                if self._done(entry) or begun != again:
                    continue
                if time.monotonic() + LEAST_SECONDS > until:
                    say("the time is up; run it again, and it goes on")
                    return False
                self._keep(entry, self._measure(entry, until))
        return all(self._done(entry) for entry in wanted)

    def _done(self, entry: dict[str, Any]) -> bool:
        """Measured; or q4, which is for an adapter that cannot do q4f16."""
        runs = self.results["runs"]
        half = runs.get(entry["name"].replace("/q4/", "/q4f16/"))
        if entry["dtype"] == "q4" and half and half["figures"] and not half["no_f16"]:
            return True
        run, folder = runs[entry["name"]], self.root / entry["folder"]
        lacked = any(figure.get("reason") == NOT_CARRIED for figure in run["figures"].values())
        brought = any((folder / name).is_file() for name in (DATA, TENSORS))
        return bool(run["finished"]) and not (lacked and brought)

    def _measure(self, entry: dict[str, Any], until: float) -> dict[str, Any]:
        """One graph's figures; what is missing has its reason."""
        say(f"{entry['name']}: {entry['words']}, on {self.adapter.name}")
        run: dict[str, Any] = {"figures": {}, "facts": {}}
        error = self._no_f16(entry) or self._prepare(entry, until)
        if error is None:
            with GpuMemory(software=self.adapter.software) as memory:
                error = self._child(self._job(entry, "webgpu", entry["graph"], until), run)
            run["figures"]["gpu_memory"] = memory.figure()
            size = (self.root / entry["folder"] / DATA).stat().st_size
            run["figures"]["data_bytes"] = {"value": size, "unit": "B"}
        for name in FIGURES:
            figure = run["figures"].setdefault(name, {"reason": error or "no such figure came"})
            figure |= {"where": self.adapter.name, "software_adapter": self.adapter.software}
        reasons = [str(figure.get("reason") or "") for figure in run["figures"].values()]
        run["finished"] = not any(reason.startswith(LATE) for reason in reasons)
        run["no_f16"] = entry["dtype"] == "q4f16" and any(map(NO_F16.search, reasons))
        return run

    def _no_f16(self, entry: dict[str, Any]) -> str | None:
        """What an earlier graph was refused for is not tried again."""
        for run in self.results["runs"].values():
            if run["no_f16"] and entry["dtype"] == "q4f16":
                return str(run["figures"]["parity_kl"]["reason"])
        return None

    def _prepare(self, entry: dict[str, Any], until: float) -> str | None:
        """Random weights where none were carried, and the CPU's logits; why not, where that fails."""
        folder = self.root / entry["folder"]
        if not (folder / DATA).is_file():
            if not (folder / TENSORS).is_file():
                return NOT_CARRIED
            say("   random weights")
            command = [self.python, "-m", "benchmarks.gpu.weights", str(folder)]
            done = subprocess.run(
                command, env=self.env, cwd=self.root, capture_output=True, text=True
            )
            if done.returncode:
                return last_line(done.stderr)
        if self._reference(folder).is_file():
            return None
        say("   the CPU reads")
        return self._child(self._job(entry, "cpu", entry["exact"], until), {})

    def _reference(self, folder: Path) -> Path:
        """The CPU's logits of so many positions: another number of them is another file."""
        return folder / REFERENCE.format(positions=self.limits["positions"])

    def _job(self, entry: dict[str, Any], on: str, graph: str, until: float) -> dict[str, Any]:
        folder = self.root / entry["folder"]
        ids = json.loads((self.root / entry["ids"]).read_text(encoding="utf-8"))
        files = {"graph": str(folder / graph), "reference": str(self._reference(folder))}
        seconds = min(self.graph_seconds, until - time.monotonic())
        return {
            "on": on,
            "ids": ids,
            "depths": DEPTHS,
            "seconds": seconds,
            **files,
            **self.limits,
        }

    def _child(self, job: dict[str, Any], run: dict[str, Any]) -> str | None:
        """Put a reader's lines into `run` as they come; the reason where it failed."""
        command = [self.python, "-m", "benchmarks.gpu.reader"]
        log = self.root / ".reader.log"
        with log.open("w") as errors:
            child = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            timer = threading.Timer(max(1, job["seconds"]) + GRACE_SECONDS, child.kill)
            end = time.monotonic() + timer.interval
            timer.start()
            try:
                assert child.stdin and child.stdout
                child.stdin.write(json.dumps(job))
                child.stdin.close()
                for line in child.stdout:
                    if line.startswith("{"):
                        _take(line, run)
                child.wait()
            finally:
                timer.cancel()
        if child.returncode == 0:
            return None
        if time.monotonic() >= end:
            return f"{LATE} a pass was still under way"
        return last_line(log.read_text(errors="replace"))

    def _keep(self, entry: dict[str, Any], run: dict[str, Any]) -> None:
        """Into the file, at once; an earlier run of the same graph that measured more stays."""
        if measured(run) >= measured(self.results["runs"][entry["name"]]):
            self.results["runs"][entry["name"]] = _named(entry) | run
        partial = self.out.with_name(f".{self.out.name}")
        partial.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.out)


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("model", "dtype", "variant", "words", "weights")}


def measured(run: dict[str, Any]) -> int:
    """How many of its figures have a value."""
    return sum(figure.get("value") is not None for figure in run["figures"].values())


def _take(line: str, run: dict[str, Any]) -> None:
    """One line of a reader: a figure, or facts beside the figures."""
    found = json.loads(line)
    if "name" not in found:
        run.setdefault("facts", {}).update(found)
        return
    figure = found["figure"]
    run.setdefault("figures", {})[found["name"]] = figure
    value = figure["value"]
    shown = f"{value:.3g} {figure['unit']}" if value is not None else figure["reason"]
    say(f"   {found['name']}: {shown}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
