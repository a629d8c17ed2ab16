"""`./inv tune`: every recipe is built and measured; the best within the budget is chosen by rule.

The rule: among the builds within the byte budget whose decode speed on the CPU is at least 95 % of the
fastest of them, the one with the lowest KL divergence from the 16-bit parent. The browser's speed is
told beside it where there is a GPU; it does not decide, so that a choice is the same on any machine.
A speed is the median of rounds that go through all builds in turn: the best of a few rounds was once a
quarter over that of other builds of the same format.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.manifest import Measurement
from shared.base.progress import say
from shared.base.stage import Done
from shared.domain.domain import Domain, load_domain
from shared.domain.olive_json import with_overrides
from shared.domain.records import Record, read_records
from shared.evaluate.fidelity import fidelity_stage
from shared.evaluate.held_out import sample
from shared.olive.build import build_stage
from shared.olive.calibration import chat_tokens
from shared.olive.package import package_stage
from shared.pipeline.tune.measure import ROUNDS, decode_speeds, weight_bits
from shared.pipeline.tune.recipes import TuneRecipe, load_recipes
from shared.pipeline.tune.scores import TaskScore, task_score
from shared.source.source import Source, source_stage, weights_hash
from shared.webgpu_bench.gpu import has_gpu
from shared.webgpu_bench.stage import bench_stage

NEAR_FASTEST = 0.95
WEBGPU = "webgpu_decode_tokens_per_second"
GRAPH = "onnx/model_q4f16.onnx"
ASKED = 3
"""So many of the best builds answer records."""


@dataclass(frozen=True)
class Settings:
    """What is measured: scored tokens for fidelity, records to answer, another file of records."""

    budget: int
    tokens: int = 4096
    records: int = 0
    records_file: Path | None = None


@dataclass
class Tried:
    """A recipe and what came of it; `error` where it could not be built or measured."""

    recipe: TuneRecipe
    measured: dict[str, Measurement] = field(default_factory=dict)
    package: Done | None = None
    error: str = ""
    build_key: str = ""
    over_budget: bool = False
    tasks: TaskScore | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be chosen."""
        return "kl_divergence" in self.measured

    def value(self, name: str) -> float:
        """The measurement as a number; KeyError where it was not taken."""
        return float(self.measured[name].value or 0)


@dataclass
class Tuning:
    """All that `tune` found; `chosen` is None where nothing fits the budget."""

    domain: Domain
    rung: str
    budget: int
    origin: str
    tried: list[Tried]
    chosen: Tried | None
    why: str
    weights: str = ""


@dataclass(frozen=True)
class _Bench:
    """One rung's model, and the held-out text that all its builds are measured on."""

    domain: Domain
    rung: str
    source: Source
    records: tuple[Record, ...]
    origin: str
    budget: int

    def attempt(self, recipe: TuneRecipe) -> Tried:
        """Build and measure; what fails is told, and does not stop the others."""
        say(f"{recipe.name}: {recipe.why}")
        tried = Tried(recipe)
        try:
            self._build(tried)
            if not tried.over_budget and tried.package:
                stage = fidelity_stage(
                    self.domain, self.source, tried.package, self.records, self.origin
                )
                tried.measured |= stage.manifest.measurements
        except RungFailed as error:
            tried.error = str(error)
            say(f"      failed: {error}")
        return tried

    def _build(self, tried: Tried) -> None:
        changed = dataclasses.replace(self.domain, olive=tried.recipe.workflow(self.domain))
        rung = self.domain.rung(self.rung).model_copy(update={"olive": {}})
        build = build_stage(changed, rung, self.source, measured=self.records)
        tried.package = package_stage(self.source, build)
        manifest = build.manifest
        tried.build_key = manifest.key
        tried.measured = {
            "bytes": manifest.measurements["q4f16_bytes"],
            "bits_per_weight": _bits_per_weight(tried.package.folder / GRAPH, self.source),
            "build_seconds": Measurement(
                value=manifest.wall_seconds, unit="s", how="wall clock of the build stage"
            ),
            "peak_rss": Measurement(
                value=manifest.peak_rss_bytes, unit="B", how="largest sum of the processes"
            ),
        }
        tried.over_budget = tried.value("bytes") > self.budget

    def time(self, tried: Sequence[Tried]) -> None:
        """Decode speed of all that are open, in turn."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            self.source.folder, local_files_only=True, trust_remote_code=False
        )
        ids = chat_tokens(tokenizer, self.domain.prompt, self.records[0])
        graphs = {t.recipe.name: t.package.folder / GRAPH for t in tried if t.is_open and t.package}
        speeds = decode_speeds(graphs, ids)
        for t in tried:
            if t.recipe.name in speeds:
                t.measured["cpu_decode_tokens_per_second"] = Measurement(
                    value=speeds[t.recipe.name],
                    unit="tokens/s",
                    how=f"greedy, CPU, the median of {ROUNDS} rounds taken in turn",
                )

    def time_in_browser(self, tried: Sequence[Tried]) -> None:
        """Decode speed on WebGPU of all that are open; a software adapter's says nothing."""
        for t in tried:
            if t.is_open and t.package:
                t.measured[WEBGPU] = _browser_speed(self.domain, t.package)


def _browser_speed(domain: Domain, package: Done) -> Measurement:
    if not has_gpu():
        return Measurement.missing("software adapter", "tokens/s")
    try:
        found = bench_stage(domain, package).manifest.measurements["decode_tokens_per_second"]
    except RungFailed as error:
        return Measurement.missing(str(error), "tokens/s")
    return Measurement.missing("software adapter", "tokens/s") if found.software_adapter else found


def tune(name: str, settings: Settings, *, rung: str = "", only: str = "") -> Tuning:
    """Try the recipes on one rung of a domain; UserError where its model cannot be had."""
    recipes = load_recipes(only)
    bench = _bench(load_domain(name), rung, settings)
    tried = [bench.attempt(recipe) for recipe in recipes]
    if any(t.is_open for t in tried):
        bench.time(tried)
        bench.time_in_browser(tried)
    best, why = choose(tried)
    if settings.records:
        asked = sample(bench.records, settings.records)
        for t in sorted((t for t in tried if t.is_open), key=_loss)[:ASKED]:
            say(f"{t.recipe.name}: {len(asked)} answers")
            assert t.package
            t.tasks = task_score(bench.domain, t.package, asked)
    weights = weights_hash(bench.source.folder)
    return Tuning(
        bench.domain, bench.rung, settings.budget, bench.origin, tried, best, why, weights
    )


def _loss(tried: Tried) -> float:
    return tried.value("kl_divergence")


def _bench(domain: Domain, rung: str, settings: Settings) -> _Bench:
    chosen = domain.rung(rung) if rung else domain.chain.rung[0]
    try:
        source = source_stage(chosen)
    except RungFailed as error:
        raise UserError(f"rung {chosen.name}: {error}") from error
    file, records, origin = settings.records_file, domain.records, "our own held-out records"
    if file:
        records = read_records(file, domain.schema)
        origin = f"records of {file.parent.name}/{file.name}"
    read = domain.chain.fidelity.model_copy(update={"tokens": settings.tokens})
    changed = dataclasses.replace(domain, chain=domain.chain.model_copy(update={"fidelity": read}))
    return _Bench(changed, chosen.name, source, records, origin, settings.budget)


def _bits_per_weight(graph: Path, source: Source) -> Measurement:
    parameters = int(source.done.manifest.measurements["parameters"].value or 1)
    how = "weights, scales and zero points of q4f16, over the parent's parameters"
    return Measurement(value=weight_bits(graph) / parameters, unit="bits", how=how)


def choose(tried: Sequence[Tried]) -> tuple[Tried | None, str]:
    """The best by the module's rule, and why."""
    open_ones = [t for t in tried if t.is_open]
    if not open_ones:
        return None, "nothing that could be built is within the budget"
    fastest = max(t.value("cpu_decode_tokens_per_second") for t in open_ones)
    quick = [
        t for t in open_ones if t.value("cpu_decode_tokens_per_second") >= NEAR_FASTEST * fastest
    ]
    best = min(quick, key=_loss)
    why = (
        f"{best.recipe.name}: the lowest KL divergence ({_loss(best):.3g} nats/token) of the "
        f"{len(quick)} builds within the budget and within 5 % of the fastest on the CPU"
    )
    return best, why


def write_choice(tuning: Tuning) -> Path:
    """Put the chosen chain into the domain's olive.json.

    UserError where nothing was chosen, or where a rung's own settings would not fit the new chain;
    then nothing is written.
    """
    path = tuning.domain.folder / "olive.json"
    if tuning.chosen is None:
        raise UserError(f"{paths.shown(path)}: not changed: {tuning.why}")
    workflow: dict[str, Any] = tuning.chosen.recipe.workflow(tuning.domain)
    for rung in tuning.domain.chain.rung:
        where = paths.shown(tuning.domain.folder / "fallback.toml")
        with_overrides(
            workflow, rung.olive, f"{where}: rung {rung.name}, after {tuning.chosen.recipe.name}"
        )
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    say(f"{paths.shown(path)}: {tuning.chosen.recipe.name}")
    return path
