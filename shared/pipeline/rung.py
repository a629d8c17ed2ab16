"""One rung, built by one exporter, on its way through the stages; how far it got and why it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.manifest import Manifest
from shared.base.progress import say
from shared.base.stage import Done
from shared.domain.domain import Domain
from shared.domain.records import read_records
from shared.domain.settings import Exporter, Rung
from shared.evaluate.check import Selection, check_stage
from shared.evaluate.fidelity import Candidate, fidelity_stage
from shared.evaluate.overflow import overflow_stage
from shared.evaluate.systems import NAMES
from shared.olive.build import build_stage
from shared.olive.package import package_stage
from shared.release.gates import GateResult, failed, judge_gates
from shared.release.model import STAGES, STAGES_IN_ALL, Attempt, Stage
from shared.source.source import Source, source_stage
from shared.webgpu_bench.gpu import has_gpu
from shared.webgpu_bench.stage import Switches, bench_stage

NEEDS: dict[Stage, tuple[Stage, ...]] = {
    "source": (),
    "build": ("source",),
    "package": ("source", "build"),
    "fidelity": ("source", "build", "package"),
    "check": ("source", "build", "package"),
    "bench": ("source", "build", "package"),
    "gates": STAGES[:-1],
}
"""What must be there before a stage can run: nobody waits for answers to look into a browser."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for. `until`: the last stage to run, with what it NEEDS.

    `on_the_way`: this is a part of a longer run, which judges the gates at its end: every stage up
    to `until` is run.
    """

    rung: str | None = None
    records: str | None = None
    records_file: Path | None = None
    systems: str = ",".join(NAMES)
    constrained: str = "both"
    force: bool = False
    keep_onnx: bool = False
    until: Stage = "gates"
    gpu_budget: str | None = None
    profile: bool = False
    on_the_way: bool = False


def candidates(runs: dict[str, RungRun]) -> dict[str, Candidate]:
    """What the choice between exporters rests on; a GPU's numbers only if all have them."""
    benches = {name: run.hardware_bench() for name, run in runs.items()}
    on_gpu = all(benches.values())
    return {
        name: Candidate(
            run.stages["package"].manifest, run.fidelity(), benches[name] if on_gpu else None
        )
        for name, run in runs.items()
    }


class RungRun:
    """`outcome` is "open" until a stage fails or the last one asked for is done."""

    def __init__(
        self, domain: Domain, rung: Rung, exporter: Exporter, selection: Selection, options: Options
    ) -> None:
        self.domain, self.rung, self.exporter = domain, rung, exporter
        self.selection, self.options = selection, options
        self.stage: Stage = "source"
        self.outcome: Literal["open", "taken", "skipped", "failed", "not kept"] = "open"
        self.reason = self.why = ""
        self.source: Source | None = None
        self.stages: dict[str, Done] = {}
        self.gates: list[GateResult] = []

    def go_to(self, last: Stage) -> None:
        """Run `last` and what it needs, as far as that is not done; a failure ends the run."""
        needed = STAGES[: STAGES.index(last)] if self.options.on_the_way else NEEDS[last]
        for stage in (*needed, last):
            if self.outcome == "open" and stage not in self.stages:
                self.stage = stage
                self._say(stage)
                self._guarded(partial(self._run, stage))

    def finish(self) -> None:
        """Run to the last stage asked for; an open run is then the one that is taken."""
        self.go_to(self.options.until)
        if self.outcome == "open":
            self.outcome, self.reason = "taken", "; ".join(filter(None, (self.rung.why, self.why)))

    def _fidelity(self) -> Done:
        """On the text of --records-file where there is one, all of it, else of our own records."""
        file, force = self.options.records_file, self.options.force
        package = self.stages["package"]
        if file is None:
            return fidelity_stage(self.domain, self._source, package, force=force)
        records = read_records(file, self.domain.schema)
        origin = f"records of {file.parent.name}/{file.name}"
        return fidelity_stage(self.domain, self._source, package, records, origin, force=force)

    def measure_on_gpu(self) -> None:
        """Where there is a GPU, its decode speed counts in the choice between exporters."""
        if self.outcome == "open" and has_gpu() and self.options.until in ("bench", "gates"):
            self.go_to("bench")

    def fidelity(self) -> Manifest:
        return self.stages["fidelity"].manifest

    def hardware_bench(self) -> Manifest | None:
        """The bench's manifest if it decoded on a hardware adapter."""
        manifest = self.stages["bench"].manifest if "bench" in self.stages else None
        speed = manifest.measurements["decode_tokens_per_second"] if manifest else None
        counts = speed is not None and speed.value is not None and not speed.software_adapter
        return manifest if counts else None

    def as_attempt(self) -> Attempt:
        """What is remembered; a run that was never finished was beaten by another exporter."""
        outcome = "not kept" if self.outcome == "open" else self.outcome
        measured = (
            dict(self.stages["package"].manifest.measurements) if "package" in self.stages else {}
        )
        if "fidelity" in self.stages:
            measured |= self.fidelity().measurements
        if bench := self.hardware_bench():
            measured["webgpu_decode_tokens_per_second"] = bench.measurements[
                "decode_tokens_per_second"
            ]
        return Attempt(
            rung=self.rung.name,
            exporter=self.exporter,
            source=self.rung.source,
            base=self.rung.base,
            outcome=outcome,
            stage=self.stage,
            reason=self.reason or self.why,
            seconds=round(sum(d.manifest.wall_seconds for d in self.stages.values()), 1),
            keys={stage: done.manifest.key for stage, done in self.stages.items()},
            measured=measured,
        )

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except RungFailed as error:
            # Without weights there was nothing to try; whatever comes later was tried and failed.
            self.outcome = "skipped" if self.stage == "source" else "failed"
            self.reason = str(error)

    def _run(self, stage: Stage) -> None:
        force = self.options.force
        steps: dict[Stage, Callable[[], Done]] = {
            "source": self._take_source,
            "build": self._build,
            "package": lambda: package_stage(self._source, self.stages["build"], force=force),
            "fidelity": self._fidelity,
            "check": lambda: check_stage(
                self.domain,
                self.rung,
                self._source,
                self.stages["package"],
                self.selection,
                force=force,
            ),
            "bench": lambda: bench_stage(
                self.domain,
                self.stages["package"],
                force=force,
                switches=Switches(self.options.gpu_budget, self.options.profile),
            ),
        }
        if stage == "gates":
            self._judge()
            return
        if stage == "bench":  # a look inside the graph, before the browser is started
            self.stages["overflow"] = overflow_stage(
                self.domain, self.stages["package"], force=force
            )
        self.stages[stage] = steps[stage]()
        if self.stages[stage].reused:
            say("      unchanged")

    def _take_source(self) -> Done:
        self.source = source_stage(self.rung, force=self.options.force)
        return self.source.done

    def _build(self) -> Done:
        keep = paths.models(self.domain.name) / "onnx" if self.options.keep_onnx else None
        force = self.options.force
        return build_stage(
            self.domain,
            self.rung,
            self._source,
            self.exporter,
            keep_onnx=keep,
            measured=self.selection.records,
            force=force,
        )

    @property
    def _source(self) -> Source:
        assert self.source is not None
        return self.source

    def _judge(self) -> None:
        manifests = {stage: done.manifest for stage, done in self.stages.items()}
        self.gates = judge_gates(self.domain.chain.gate, manifests)
        fatal = failed(self.gates, "release")
        if fatal:
            raise RungFailed(f"gate {fatal[0].name!r}: {fatal[0].reason}")

    def _say(self, stage: Stage) -> None:
        number = STAGES.index(stage) + 1
        exporter = f" · {self.exporter}" if len(self.rung.exporters) > 1 else ""
        say(f"[{number}/{STAGES_IN_ALL}] {self.domain.name} · {self.rung.name}{exporter} · {stage}")
