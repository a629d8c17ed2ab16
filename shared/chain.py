"""Walk a domain's rungs in order, remembering every attempt and why it ended.

For each rung: source → build → package → check → bench → gates. The first rung that passes the
gates that block a release is taken; a rung that cannot be had or fails is recorded with the stage
it reached and one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.domain import Domain, Rung, read_records
from shared.errors import RungFailed, UserError
from shared.evaluate.check import Selection, check_stage, sample
from shared.gates import GateResult, failed, judge_gates
from shared.manifest import Manifest, Strict
from shared.olive.build import build_stage
from shared.olive.package import package_stage
from shared.progress import say
from shared.source import Source, source_stage
from shared.stage import Done
from shared.webgpu_bench.stage import bench_stage

Stage = Literal["source", "build", "package", "check", "bench", "gates"]
STAGES: tuple[Stage, ...] = ("source", "build", "package", "check", "bench", "gates")
STAGES_IN_ALL = 9
"""With card, release folder and publish, which come after the chain."""


class Attempt(Strict):
    """One rung: how far it got and why it ended. `keys` name the manifests it left."""

    rung: str
    source: str
    base: str
    outcome: Literal["taken", "skipped", "failed"]
    stage: Stage
    reason: str
    seconds: float = 0.0
    keys: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the command line asked for. `until`: the last stage to run."""

    rung: str | None = None
    records: str | None = None
    records_file: Path | None = None
    force: bool = False
    until: Stage = "gates"


@dataclass
class Walk:
    """The outcome: all attempts, and what the taken rung left (empty where none was taken)."""

    domain: Domain
    attempts: list[Attempt] = field(default_factory=list)
    rung: Rung | None = None
    source: Source | None = None
    done: dict[str, Done] = field(default_factory=dict)
    gates: list[GateResult] = field(default_factory=list)

    @property
    def manifests(self) -> dict[str, Manifest]:
        return {stage: done.manifest for stage, done in self.done.items()}

    @property
    def package(self) -> Path:
        return self.done["package"].folder


def walk(domain: Domain, options: Options) -> Walk:
    """Try the rungs until one passes; `Walk.rung` is None where none did."""
    result = Walk(domain)
    selection = select_records(domain, options)
    rungs = [domain.rung(options.rung)] if options.rung else domain.chain.rung
    for rung in rungs:
        run = _RungRun(domain, rung, selection, options)
        attempt = run.attempt()
        result.attempts.append(attempt)
        if attempt.outcome == "taken":
            result.rung, result.source, result.done = rung, run.source, run.done
            result.gates = run.gates
            break
        say(f"      {attempt.outcome}: {attempt.reason}")
    return result


def select_records(domain: Domain, options: Options) -> Selection:
    """The held-out records to answer: a sample of the domain's own, N, all, or another file's."""
    if options.records_file:
        records = read_records(options.records_file, domain.schema)
        origin = f"records of {options.records_file.parent.name}/{options.records_file.name}"
    else:
        records, origin = domain.records, "our own held-out records"
    asked = options.records or str(domain.chain.check.records)
    if asked != "all" and (not asked.isdigit() or asked == "0"):
        raise UserError(f"--records: a number or 'all' is wanted, not {asked!r}")
    count = len(records) if asked == "all" else int(asked)
    return Selection(sample(records, count), origin)


class _RungRun:
    """One rung on its way through the stages."""

    def __init__(self, domain: Domain, rung: Rung, selection: Selection, options: Options) -> None:
        self.domain, self.rung, self.selection, self.options = domain, rung, selection, options
        self.stage: Stage = "source"
        self.source: Source | None = None
        self.done: dict[str, Done] = {}
        self.gates: list[GateResult] = []

    def attempt(self) -> Attempt:
        try:
            for stage in STAGES[: STAGES.index(self.options.until) + 1]:
                self._enter(stage)
                reason = self._run(stage)
        except RungFailed as error:
            outcome: Literal["skipped", "failed"] = "skipped" if self._untried else "failed"
            return self._as_attempt(outcome, str(error))
        return self._as_attempt("taken", reason or self.rung.why)

    def _run(self, stage: Stage) -> str:
        force = self.options.force
        steps: dict[Stage, Callable[[], Done]] = {
            "build": lambda: build_stage(self.domain, self.rung, self._source, force=force),
            "package": lambda: package_stage(self._source, self.done["build"], force=force),
            "check": lambda: check_stage(
                self.domain, self.rung, self.done["package"], self.selection, force=force
            ),
            "bench": lambda: bench_stage(self.domain, self.done["package"], force=force),
        }
        if stage == "source":
            self.source = source_stage(self.rung, force=force)
            self.done["source"] = self.source.done
        elif stage == "gates":
            return self._judge()
        else:
            self.done[stage] = steps[stage]()
        if self.done[stage].reused:
            say("      unchanged")
        return ""

    @property
    def _source(self) -> Source:
        assert self.source is not None
        return self.source

    @property
    def _untried(self) -> bool:
        """A rung whose weights could not be had was skipped; one that came further has failed."""
        return self.stage == "source"

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        number = STAGES.index(stage) + 1
        say(f"[{number}/{STAGES_IN_ALL}] {self.domain.name} · {self.rung.name} · {stage}")

    def _judge(self) -> str:
        manifests = {stage: done.manifest for stage, done in self.done.items()}
        self.gates = judge_gates(self.domain.chain.gate, manifests)
        fatal = failed(self.gates, "release")
        if fatal:
            raise RungFailed(f"gate {fatal[0].name!r}: {fatal[0].reason}")
        return self.rung.why

    def _as_attempt(self, outcome: Literal["taken", "skipped", "failed"], reason: str) -> Attempt:
        return Attempt(
            rung=self.rung.name,
            source=self.rung.source,
            base=self.rung.base,
            outcome=outcome,
            stage=self.stage,
            reason=reason,
            seconds=round(sum(d.manifest.wall_seconds for d in self.done.values()), 1),
            keys={stage: done.manifest.key for stage, done in self.done.items()},
        )
