"""`./inv tune`: every recipe is built and measured; the best within the budget is chosen by rule.

The rule: among the builds within the byte budget whose decode speed is at least 95 % of the fastest
of them, the one with the lowest KL divergence from the 16-bit parent.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import paths
from shared.domain import Domain, Record, load_domain, read_records
from shared.errors import RungFailed, UserError
from shared.evaluate.check import sample
from shared.hashing import sha256_json
from shared.manifest import Measurement, tool_versions
from shared.olive.build import build_stage
from shared.olive.calibration import chat_tokens
from shared.progress import say
from shared.source import Source, source_stage, weights_hash
from shared.stage import Plan, Produced, run_stage
from shared.tune.measure import Parent, decode_speeds, measure, weight_bits
from shared.tune.recipes import TuneRecipe, load_recipes

NEAR_FASTEST = 0.95
GRAPH = "model_q4f16.onnx"


@dataclass
class Tried:
    """A recipe and what came of it; `error` where it could not be built or measured."""

    recipe: TuneRecipe
    measured: dict[str, Measurement] = field(default_factory=dict)
    folder: Path | None = None
    error: str = ""
    over_budget: bool = False

    def value(self, name: str) -> float:
        """The measurement as a number; KeyError where it was not taken."""
        return float(self.measured[name].value or 0)


@dataclass
class Tuning:
    """All that `tune` found; `chosen` is None where nothing fits the budget."""

    domain: Domain
    rung: str
    budget: int
    records: int
    tried: list[Tried]
    chosen: Tried | None
    why: str


def tune(
    name: str,
    budget: int,
    *,
    rung: str = "",
    only: str = "",
    records: int = 8,
    records_file: Path | None = None,
) -> Tuning:
    """Try the recipes on one rung of a domain; UserError where its model cannot be had."""
    domain = load_domain(name)
    chosen_rung = domain.rung(rung) if rung else domain.chain.rung[0]
    try:
        source = source_stage(chosen_rung)
    except RungFailed as error:
        raise UserError(f"rung {chosen_rung.name}: {error}") from error
    pool = read_records(records_file, domain.schema) if records_file else domain.records
    measured_on = sample(pool, records)
    parent = _parent(domain, source, measured_on)
    tried = [
        _try(recipe, domain, chosen_rung.name, source, parent, budget, measured_on)
        for recipe in load_recipes(only)
    ]
    _time(tried, parent)
    best, why = choose(tried)
    return Tuning(domain, chosen_rung.name, budget, len(measured_on), tried, best, why)


def _parent(domain: Domain, source: Source, records: Sequence[Record]) -> Parent:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    return Parent(source.folder, [chat_tokens(tokenizer, domain.prompt, r) for r in records])


def _try(
    recipe: TuneRecipe,
    domain: Domain,
    rung_name: str,
    source: Source,
    parent: Parent,
    budget: int,
    records: Sequence[Record],
) -> Tried:
    say(f"{recipe.name}: {recipe.why}")
    tried = Tried(recipe)
    try:
        changed = dataclasses.replace(domain, olive=recipe.workflow(domain))
        rung = domain.rung(rung_name).model_copy(update={"olive": {}})
        build = build_stage(changed, rung, source, measured=records)
        tried.folder = build.folder
        tried.measured = {
            "bytes": build.manifest.measurements["q4f16_bytes"],
            "bits_per_weight": _bits_per_weight(build.folder / GRAPH, source),
            "build_seconds": Measurement(
                value=build.manifest.wall_seconds, unit="s", how="wall clock of the build stage"
            ),
            "peak_rss": Measurement(
                value=build.manifest.peak_rss_bytes, unit="B", how="largest sum of the processes"
            ),
        }
        tried.over_budget = tried.value("bytes") > budget
        if not tried.over_budget:
            tried.measured |= _fidelity(build.manifest.key, build.folder / GRAPH, source, parent)
    except RungFailed as error:
        tried.error = str(error)
        say(f"      failed: {error}")
    return tried


def _bits_per_weight(graph: Path, source: Source) -> Measurement:
    parameters = int(source.done.manifest.measurements["parameters"].value or 1)
    how = "weights, scales and zero points of q4f16, over the parent's parameters"
    return Measurement(value=weight_bits(graph) / parameters, unit="bits", how=how)


def _fidelity(key: str, graph: Path, source: Source, parent: Parent) -> dict[str, Measurement]:
    plan = Plan(
        "tune",
        inputs={"build": key, "weights": weights_hash(source.folder)},
        settings={"texts": sha256_json([text.ids for text in parent.texts])},
        tools=tool_versions("onnxruntime", "torch", "transformers"),
    )
    done = run_stage(plan, lambda work: Produced(measure(graph, parent)))
    return dict(done.manifest.measurements)


def _time(tried: Sequence[Tried], parent: Parent) -> None:
    graphs = {
        t.recipe.name: t.folder / GRAPH for t in tried if t.folder and "agreement" in t.measured
    }
    say("      decode speed, in turn")
    speeds = decode_speeds(graphs, parent.texts[0].ids)
    for t in tried:
        if t.recipe.name in speeds:
            t.measured["cpu_decode_tokens_per_second"] = Measurement(
                value=speeds[t.recipe.name],
                unit="tokens/s",
                how="greedy, CPU, the best of three rounds taken in turn",
            )


def choose(tried: Sequence[Tried]) -> tuple[Tried | None, str]:
    """The best by the module's rule, and why."""
    open_ones = [t for t in tried if "kl_divergence" in t.measured]
    if not open_ones:
        return None, "nothing that could be built is within the budget"
    fastest = max(t.value("cpu_decode_tokens_per_second") for t in open_ones)
    quick = [
        t for t in open_ones if t.value("cpu_decode_tokens_per_second") >= NEAR_FASTEST * fastest
    ]
    best = min(quick, key=lambda t: t.value("kl_divergence"))
    why = (
        f"{best.recipe.name}: the lowest KL divergence ({best.value('kl_divergence'):.3g} nats/token) "
        f"of the {len(quick)} builds within the budget and within 5 % of the fastest"
    )
    return best, why


def write_choice(tuning: Tuning) -> Path:
    """Put the chosen chain into the domain's olive.json; UserError where nothing was chosen."""
    if tuning.chosen is None:
        raise UserError(f"domains/{tuning.domain.name}/olive.json: not changed: {tuning.why}")
    path = tuning.domain.folder / "olive.json"
    workflow: dict[str, Any] = tuning.chosen.recipe.workflow(tuning.domain)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(workflow, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    say(f"{paths.shown(path)}: {tuning.chosen.recipe.name}")
    return path
