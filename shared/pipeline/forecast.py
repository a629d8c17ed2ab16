"""Time told before it is spent: a rung's stages with seconds, memory and disk, and the sum at the end.

>>> with total_time():
...     run.forecast.tell(run, stages)      # "      build: about 26 min, 3.6 GB of memory, …"
"""

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shared.base.formatting import about, duration
from shared.base.hashing import NotDone, only_what_is_done, work_is_refused
from shared.base.machine import measured_machine
from shared.base.progress import lines_to, say
from shared.base.stage import StageResult
from shared.domain.domain import Domain
from shared.domain.olive_json import place_of, with_overrides
from shared.domain.records import Record, read_records
from shared.domain.settings import Exporter, Rung
from shared.evaluate.check import Selection
from shared.evaluate.token_windows import FEWEST
from shared.olive.build import block_size
from shared.olive.calibration_text import (
    MAX_TOKENS,
    general_instructions,
    wants_calibration,
)
from shared.pipeline.estimate import Cost, Shape, Work, estimate
from shared.release.model import STAGES, Stage
from shared.setup.browser import find_browser
from shared.source.source import Source
from shared.webgpu_bench.request import Profile
from shared.webgpu_bench.stage import offered

CHARACTERS = 3.5
"""A token's, in English: 3.3 in the calibration texts with tables, 4.1 in those with dialogues."""
CALIBRATED = "calibratedquant"
TEMPLATE = 10
"""Tokens of a chat template around a record."""
CHANGED, WORTH_SECONDS = 1.5, 30
"""The rest is told anew where it changed by this factor and is at least so long."""

_estimated: ContextVar[list[float] | None] = ContextVar("_estimated", default=None)


@contextmanager
def total_time() -> Iterator[None]:
    """Say at the end how long it took in all, and how long was estimated, if anything was."""
    began, token = time.monotonic(), _estimated.set([])
    try:
        yield
    finally:
        told = _estimated.get()
        _estimated.reset(token)
        if told:
            say(f"in all {duration(time.monotonic() - began)}; estimated {about(sum(told))}")


class Run(Protocol):
    """shared.pipeline.stages.RungRun, which has a Forecast."""

    domain: Domain
    rung: Rung
    exporter: Exporter
    selection: Selection
    source: Source | None
    stages: dict[str, StageResult]
    forecast: "Forecast"

    def go_to(self, last: Stage) -> None: ...


R = TypeVar("R", bound=Run)


@dataclass
class Forecast:
    """What a rung's run has told so far. `factor`: measured over estimated time, as last told."""

    silent: bool = False
    costs: dict[Stage, Cost] = field(default_factory=dict)
    factor: float = 1.0

    def tell(self, run: Run, stages: Sequence[Stage]) -> None:
        """Before one of `stages` begins: what each takes here, once; later only what changed."""
        if self.silent or run.source is None or work_is_refused():
            return
        if new := [stage for stage in stages if stage not in (*self.costs, *run.stages, "gates")]:
            self._announce(run, new)
        else:
            self._revise(run)

    def _announce(self, run: Run, stages: list[Stage]) -> None:
        done = finished(run).stages
        assert run.source is not None
        missing = [stage for stage in stages if stage not in done]
        self.costs |= {stage: Cost(0) for stage in stages}
        costs = cost_of(run, configuration(run.source.folder)) if missing else None
        if not costs:
            return
        self.costs |= {stage: costs[stage] for stage in missing}
        for line in lines(costs, missing):
            say(f"      {line}")
        if (told := _estimated.get()) is not None:
            told.append(sum(costs[stage].seconds for stage in missing))

    def _revise(self, run: Run) -> None:
        """Tell the rest anew where what is finished took much longer, or much less, than estimated."""
        took = {s: run.stages[s] for s in self.costs if s in run.stages}
        spent = {s: done.manifest.wall_seconds for s, done in took.items() if not done.reused}
        before = sum(self.costs[stage].seconds for stage in spent)
        rest = sum(cost.seconds for stage, cost in self.costs.items() if stage not in took)
        if not before or not spent:
            return
        factor = max(sum(spent.values()), 1.0) / before
        if abs(math.log(factor / self.factor)) > math.log(CHANGED) and rest > WORTH_SECONDS:
            self.factor = factor
            say(
                f"      so far {duration(sum(spent.values()))}, estimated {about(before)}; "
                f"the rest about {about(factor * rest)}"
            )


def finished(run: R) -> R:
    """A copy of the run that was taken through the stages that are done already, and no other."""
    probe = copy.copy(run)
    probe.stages, probe.forecast = dict(run.stages), Forecast(silent=True)
    with only_what_is_done(), lines_to(lambda _: None):
        for stage in STAGES[:-1]:
            with suppress(NotDone):
                probe.go_to(stage)
    return probe


def configuration(folder: Path) -> Any:
    """transformers' configuration object of a model folder; None where it makes none."""
    from transformers import AutoConfig

    with suppress(Exception):  # the build refuses it, with the key
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return None


def cost_of(run: Run, config: Any) -> dict[Stage, Cost]:
    """The estimate of each stage; empty where the configuration's dimensions are missing or no sizes:
    the build refuses those, or knows them otherwise."""
    work = work_of(run)
    try:
        return estimate(Shape.of(config), work, measured_machine())
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        return {}


def work_of(run: Run) -> Work:
    """What the run's domain and options ask of a model."""
    domain, chain, selection = run.domain, run.domain.chain, run.selection
    where = place_of(domain.folder, run.rung.name)
    workflow = with_overrides(domain.olive, run.rung.olive, where)
    passes = list(workflow["passes"].values())
    asked = selection.records
    has_base = run.rung.prompt_only or run.rung.untuned is not None
    record = TEMPLATE + sum(len(r.input) for r in asked) / len(asked) / CHARACTERS
    answer = sum(map(_gold, asked)) / len(asked)
    return Work(
        prompt=len(domain.prompt) / CHARACTERS,
        record=record,
        answer=answer,
        limit=chain.check.max_new_tokens,
        records=len(asked),
        modes=selection.modes,
        systems=tuple(name for name in selection.systems if has_base or name != "base"),
        tuned=not run.rung.prompt_only,
        read=max(chain.fidelity.tokens, FEWEST * int(record + answer)),
        calibration=_calibration(run, workflow),
        searched=any(map(_searches, passes)),
        made_up=any(_settings(one).get("make_up") for one in passes),
        block=block_size(workflow),
        optimum=run.exporter == "optimum",
        packed=run.rung.source.startswith("pypi:"),
        bench=Profile.of(domain, bool(offered(find_browser()))),
        minutes=selection.minutes or math.inf,
        adapted=run.rung.adapter is not None,
    )


def _settings(one: dict[str, Any]) -> dict[str, Any]:
    return one.get("config", one)


def _searches(one: dict[str, Any]) -> bool:
    """Our own pass, whatever of its settings is left to their defaults, or one of Olive's."""
    return one.get("type", "").lower() == CALIBRATED or "bits" in _settings(one)


def _gold(record: Record) -> float:
    return len(json.dumps(record.gold, ensure_ascii=False)) / CHARACTERS


def _calibration(run: Run, workflow: dict[str, Any]) -> float:
    """Tokens of the calibration text; 0 where no pass takes any."""
    path = run.domain.calibration_file
    if not wants_calibration(workflow) or not path.is_file():
        return 0.0
    around = TEMPLATE + len(run.domain.prompt) / CHARACTERS
    records = read_records(path, run.domain.schema)
    lengths = (around + len(r.input) / CHARACTERS + _gold(r) for r in records)
    own = min(run.domain.chain.calibration.tokens, sum(min(MAX_TOKENS, n) for n in lengths))
    general = general_instructions()
    return own + sum(TEMPLATE + len(g.input + g.answer) / CHARACTERS for g in general)


def lines(costs: dict[Stage, Cost], stages: Sequence[Stage]) -> list[str]:
    """One a stage, and one for all: the time is a sum, of memory the most counts, disk adds up."""
    told = [costs[stage] for stage in stages]
    most = max(told, key=lambda cost: cost.memory, default=Cost(0, 0))
    whole = replace(
        most, seconds=sum(cost.seconds for cost in told), disk=sum(cost.disk for cost in told)
    )
    rows = [(stage, costs[stage]) for stage in stages] + [("in all", whole)]
    return [f"{name:<9} {words(cost)}" for name, cost in rows]


def words(cost: Cost) -> str:
    """`about 26 min, 7.1 GB of memory (6.2 of them mapped), 5.4 GB of disk`."""
    disk = f", {cost.disk / 1e9:.1f} GB of disk" if cost.disk >= 5e7 else ""
    mapped = f" ({cost.mapped / 1e9:.1f} of them mapped)" if cost.mapped >= 5e7 else ""
    return f"about {about(cost.seconds)}, {cost.memory / 1e9:.1f} GB of memory{mapped}{disk}"
