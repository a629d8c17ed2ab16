"""One rung, built by one exporter, on its way through the stages; how far it got and why it ended."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from shared.base import paths
from shared.base.apart import apart
from shared.base.errors import NoWeights, OtherWeights, RungFailed, UserError, of_this_machine
from shared.base.files import write_text
from shared.base.gpu import has_gpu
from shared.base.hashing import NotDone, only_what_is_done, refuse_work
from shared.base.manifest import Measurement
from shared.base.processes import give_back_memory
from shared.base.progress import say
from shared.base.stage import StageResult
from shared.base.text import first_line
from shared.domain.domain import Domain
from shared.domain.records import Record, read_records
from shared.domain.settings import Exporter, Gate, Rung
from shared.evaluate.check import Selection, check_stage
from shared.evaluate.fidelity import fidelity_stage
from shared.evaluate.models.device import DEVICES, calibrating, is_large
from shared.evaluate.overflow import overflow_stage
from shared.evaluate.systems import NAMES
from shared.olive.build import build_stage
from shared.olive.package import package_stage
from shared.pipeline.forecast import Forecast
from shared.pipeline.inputs import need_room
from shared.prompt.stage import prompt_stage
from shared.release.gates import GateResult, failed, judge_gates
from shared.release.model import STAGES, STAGES_IN_ALL, Attempt, Stage
from shared.source.source import Source, source_stage
from shared.webgpu_bench.stage import Switches, bench_stage

CPU_DECODE = "cpu_decode_tokens_per_second"
WEBGPU_DECODE = "webgpu_decode_tokens_per_second"

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
    to `until` is run. `take_up`: what an earlier run left unfinished is gone on with.
    """

    rung: str | None = None
    records: str | None = None
    records_file: Path | None = None
    systems: str = ",".join(NAMES)
    constrained: str = "both"
    device: str = "auto"
    calibration: Path | None = None
    time_budget: str | None = None
    force: bool = False
    keep_onnx: bool = False
    until: Stage = "gates"
    gpu_budget: str | None = None
    profile: bool = False
    on_the_way: bool = False
    take_up: bool = True


def saved_traceback(domain: str, error: Exception) -> str:
    """A defect in a few words; its traceback is kept in build/failures/<domain>.txt, since on a screen
    between other lines it is no help."""
    file = paths.build() / "failures" / f"{domain}.txt"
    write_text(file, "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {first_line(error)} (traceback: {paths.shown(file)})"


def in_room_of_its_own(folder: Path, stage: Callable[[], StageResult]) -> StageResult:
    """The stage's result; of a large model in `folder`, what it takes of memory is gone with it."""
    if not is_large(folder):
        return stage()
    with suppress(NotDone), only_what_is_done():
        return stage()
    refuse_work("a large model's stage")
    give_back_memory()
    return apart(stage)


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
        self.other_weights = False
        self.source: Source | None = None
        self.stages: dict[str, StageResult] = {}
        self.gates: list[GateResult] = []
        self.forecast = Forecast()
        self.cpu_decode: Measurement | None = None
        """Its speed beside other builds', where it was compared with any (shared.pipeline.choose)."""

    def go_to(self, last: Stage) -> None:
        """Run `last` and what it needs, as far as that is not done; a failure ends the run."""
        needed = STAGES[: STAGES.index(last)] if self.options.on_the_way else NEEDS[last]
        for stage in (*needed, last):
            if self.outcome != "open" or stage in self.stages:
                continue
            self.stage = stage
            self.forecast.tell(self, (*needed, last))
            self._say(stage)
            try:
                self._run(stage)
                if stage == "package" and last == "gates":
                    self._judge_package()
            except RungFailed as error:
                self.outcome = "skipped" if isinstance(error, NoWeights) else "failed"
                self.reason = str(error)
                self.other_weights = isinstance(error, OtherWeights)
            except (UserError, NotDone):  # the domain's own mistake, or work that was not asked for
                raise
            except Exception as error:  # nothing of a third party's folder ends the chain
                if of_this_machine(
                    error
                ):  # a full disk fails every rung, or lets a lesser one pass
                    raise
                self.outcome = "failed"
                self.reason = f"a defect of ours: {saved_traceback(self.domain.name, error)}"

    def skip(self, reason: str) -> None:
        """End the run before it began."""
        self.outcome, self.reason = "skipped", reason

    def was_brought(self) -> bool:
        """Whether somebody put weights in its place, though it was not taken."""
        return self.outcome == "failed" or self.other_weights

    def finish(self) -> None:
        """Run to the last stage asked for; an open run is then the one that is taken."""
        self.go_to(self.options.until)
        if self.outcome == "open":
            self.outcome, self.reason = "taken", "; ".join(filter(None, (self.rung.why, self.why)))

    @cached_property
    def text(self) -> tuple[Record, ...]:
        """All records of --records-file, else of the domain: fidelity reads them, none calibrates."""
        file = self.options.records_file
        if file is None:
            return self.domain.records
        return read_records(file, self.domain.schema, partial=True)

    @property
    def measured(self) -> dict[str, Measurement]:
        """What builds are compared by: bytes, fidelity, decode speed; WebGPU's on hardware alone."""
        done = (self.stages.get("package"), self.stages.get("fidelity"))
        found = {name: m for d in done if d for name, m in d.manifest.measurements.items()}
        if self.cpu_decode:
            found[CPU_DECODE] = self.cpu_decode
        if "bench" in self.stages:
            speed = self.stages["bench"].manifest.measurements["decode_tokens_per_second"]
            if speed.value is not None and not speed.software_adapter:
                found[WEBGPU_DECODE] = speed
        return found

    @property
    def does_not_load(self) -> str:
        """Why the browser could not load or run it; "" where it could, or was not asked."""
        loads = (
            self.stages["bench"].manifest.measurements["loads"] if "bench" in self.stages else None
        )
        return (loads.reason or "") if loads and loads.value is False else ""

    def measure_on_gpu(self) -> None:
        """Measure it in the browser where there is a GPU: a software adapter's speed says nothing."""
        if has_gpu():
            self.go_to("bench")

    def as_attempt(self) -> Attempt:
        """What is remembered; a run that was never finished was beaten by another exporter."""
        return Attempt(
            rung=self.rung.name,
            exporter=self.exporter,
            source=paths.without_home(self.rung.weights),
            base=self.rung.base,
            outcome="not kept" if self.outcome == "open" else self.outcome,
            stage=self.stage,
            reason=paths.without_home(self.reason or self.why),
            seconds=round(sum(d.manifest.wall_seconds for d in self.stages.values()), 1),
            keys={stage: done.manifest.key for stage, done in self.stages.items()},
            measured=self.measured,
        )

    def _run(self, stage: Stage) -> None:
        if stage == "gates":
            self._judge()
            return
        self.stages[stage] = self._made(stage)
        if self.stages[stage].reused:
            say("      unchanged")

    def _made(self, stage: Stage) -> StageResult:
        domain, rung, force = self.domain, self.rung, self.options.force
        if stage == "source":
            self.source = source_stage(rung, force=force)
            return self.source.done
        source, text = self.source, self.text
        assert source is not None
        if stage == "build":
            self.stages["prompt"] = prompt_stage(
                domain, source, force=force
            )  # a second, not an hour
            return self._built(source)
        if stage == "package":
            prompt, build = self.stages["prompt"], self.stages["build"]
            return package_stage(source, prompt, build, force=force)
        package = self.stages["package"]
        if stage == "fidelity":
            where, device = self.selection.origin, self.selection.device
            read = partial(fidelity_stage, domain, source, package, text, where, device=device)
            return in_room_of_its_own(source.folder, partial(read, force=force))
        if stage == "check":
            check = partial(check_stage, domain, rung, source, package, self.selection)
            return in_room_of_its_own(source.folder, partial(check, force=force))
        # A look inside the graph, before the browser is started.
        self.stages["overflow"] = overflow_stage(domain, package, force=force)
        return bench_stage(domain, package, force=force, switches=self.switches)

    @property
    def switches(self) -> Switches:
        options = self.options
        return Switches(options.gpu_budget, options.profile, options.take_up)

    def _built(self, source: Source) -> StageResult:
        domain, options = self.domain, self.options
        build = partial(
            build_stage,
            domain,
            self.rung,
            source,
            self.exporter,
            keep_onnx=paths.models(domain.name) / "onnx" if options.keep_onnx else None,
            measured=self.text,
            force=options.force,
        )
        asked = self.selection.device
        for device in () if options.force else (DEVICES[1:] if asked == "auto" else (asked,)):
            with suppress(NotDone), only_what_is_done():  # one from another device serves as well
                return build(device=device)
        refuse_work("build")
        need_room(self.rung)
        return in_room_of_its_own(source.folder, partial(build, device=calibrating(asked)))

    def _judge(self) -> None:
        manifests = {stage: done.manifest for stage, done in self.stages.items()}
        self.gates = judge_gates(self._gates(), manifests)
        fatal = failed(self.gates, "release")
        if fatal:
            raise RungFailed(f"gate {fatal[0].name!r}: {fatal[0].reason}")

    def _gates(self) -> list[Gate]:
        return self.domain.chain.gates_of(self.rung)

    def _judge_package(self) -> None:
        """What is too large is told before an hour of answers and a browser."""
        found = {"package": self.stages["package"].manifest}
        early = [gate for gate in self._gates() if gate.measurement.startswith("package.")]
        if fatal := failed(judge_gates(early, found), "release"):
            raise RungFailed(f"gate {fatal[0].name!r}: {fatal[0].reason}")

    def _say(self, stage: Stage) -> None:
        number = STAGES.index(stage) + 1
        exporter = f" · {self.exporter}" if len(self.rung.exporters) > 1 else ""
        say(f"[{number}/{STAGES_IN_ALL}] {self.domain.name} · {self.rung.name}{exporter} · {stage}")
