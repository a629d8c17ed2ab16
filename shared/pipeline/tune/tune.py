"""`./inv tune`: every recipe is built and measured by the chain's stages; the better one is chosen.

A recipe is a chain of Olive passes that runs before the domain's builder pass; recipes.json has them
by name, and its settings for `builder` are put into that pass. shared.pipeline.choose has the rule.
The three builds with the lowest KL divergence may answer held-out records as well, as the check has it.
"""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.manifest import Measurement
from shared.base.parsing import nearest, read_json
from shared.base.progress import say
from shared.domain.domain import Domain, load_domain
from shared.domain.olive_json import builder_pass, check_olive_config, place_of, with_overrides
from shared.domain.settings import LEAST_TOKENS
from shared.evaluate.compare import Checked, read_checked
from shared.olive.calibration_text import FILE as CALIBRATION
from shared.pipeline.chain import select_records
from shared.pipeline.choose import GRAPH, measure_speeds, rank
from shared.pipeline.inputs import need_calibration
from shared.pipeline.stages import WEBGPU_DECODE, Options, RungRun
from shared.release.folder import costs
from shared.source.source import weights_hash

FILE = Path(__file__).with_name("recipes.json")
WEIGHTS = ("_q4", "_scales", "_zeros", "weight", "bias")
BUILDER = "builder"
"""In recipes.json: the domain's builder pass, whatever its name is."""
BLOCKS = {"int4_block_size": 32}
ANSWERING = 3
"""So many of the best builds answer records."""


@dataclass(frozen=True)
class Recipe:
    """A named chain of passes and one sentence on what it does. `layers`: how many a model must have
    whose layers the passes name by number."""

    name: str
    why: str
    passes: dict[str, Any]
    layers: int | None = None

    def workflow(self, domain: Domain) -> dict[str, Any]:
        """The domain's olive.json with this chain before its builder; unknown keys are a UserError."""
        workflow = copy.deepcopy(domain.olive)
        name, builder = builder_pass(workflow)
        before = {key: value for key, value in self.passes.items() if key != BUILDER}
        own = BLOCKS | self.passes.get(BUILDER, {})  # not those of a recipe that was written before
        workflow["passes"] = before | {name: builder | own}
        return check_olive_config(workflow, Path(f"{FILE.name}: {self.name}"))


def load_recipes(only: str = "") -> list[Recipe]:
    """All of recipes.json, or those that `only` names, separated by commas, in its order."""
    known = {n: Recipe(n, **entry) for n, entry in read_json(FILE).items()}
    names = [name.strip() for name in only.split(",")] if only else list(known)
    for name in names:
        if name not in known:
            raise UserError(f"--recipes: no recipe {name!r}; {nearest(name, list(known))}")
    return [known[name] for name in names]


@dataclass
class Tried:
    """A recipe and what came of it; `error` where it could not be built or measured."""

    recipe: Recipe
    measured: dict[str, Measurement] = field(default_factory=dict)
    error: str = ""
    build_key: str = ""
    over_budget: bool = False
    checked: Checked | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be chosen."""
        return "kl_divergence" in self.measured and not self.error

    @property
    def loss(self) -> float:
        return self.value("kl_divergence")

    def value(self, name: str) -> float:
        """The measurement as a number; KeyError or TypeError where it was not taken."""
        return float(self.measured[name].value)  # type: ignore[arg-type]


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


def tune(name: str, options: Options, budget: int, tokens: int = 4096, only: str = "") -> Tuning:
    """Try the recipes on one rung of a domain; UserError where its model cannot be had.

    Of `options`: the rung, and the records to answer (none, if not given) of which file. `tokens`:
    scored ones, for fidelity. `only`: names of recipes, separated by commas.
    """
    if tokens < LEAST_TOKENS:
        raise UserError(f"--tokens: {LEAST_TOKENS} or more, not {tokens}")
    recipes = load_recipes(only)
    if options.calibration:
        if not any(CALIBRATION in json.dumps(recipe.passes) for recipe in recipes):
            raise UserError("--calibration: none of these recipes takes any text")
        need_calibration(name, options.calibration, takes=True)
    domain = load_domain(name, options.calibration)
    read = domain.chain.fidelity.model_copy(update={"tokens": tokens})
    chain = domain.chain.model_copy(update={"fidelity": read})
    domain = dataclasses.replace(domain, chain=chain)
    asked = dataclasses.replace(options, systems="release", constrained="free")
    selection = select_records(domain, dataclasses.replace(asked, records=options.records or "1"))
    taken = domain.rung(options.rung) if options.rung else domain.chain.rung[0]
    bare = taken.model_copy(update={"olive": {}})
    workflows = {r.name: dataclasses.replace(domain, olive=r.workflow(domain)) for r in recipes}
    runs = {n: RungRun(d, bare, "olive", selection, options) for n, d in workflows.items()}
    for recipe in recipes:
        _build(recipe, runs[recipe.name], budget)
    _compare({n: run for n, run in runs.items() if "fidelity" in run.stages})
    tried = [_tried(recipe, runs[recipe.name], budget) for recipe in recipes]
    if options.records:
        for one in sorted((t for t in tried if t.is_open), key=lambda t: t.loss)[:ANSWERING]:
            one.checked = _answers(runs[one.recipe.name], one.recipe.name)
    best, why = choose(tried, budget)
    source = next((run.source for run in runs.values() if run.source), None)
    weights = weights_hash(source.folder) if source else ""
    return Tuning(domain, taken.name, budget, selection.origin, tried, best, why, weights)


def _build(recipe: Recipe, run: RungRun, budget: int) -> None:
    """Build it, and measure what is within the budget; a failure does not stop the others."""
    say(f"{recipe.name}: {recipe.why}")
    if CALIBRATION in json.dumps(recipe.passes) and not run.domain.calibration_file.exists():
        run.outcome, run.reason = "failed", f"the domain has no {CALIBRATION}"
    run.go_to("source")
    if run.outcome == "open" and recipe.layers not in (None, found := _layers(run)):
        run.outcome, run.reason = (
            "failed",
            f"made for {recipe.layers} layers; the model has {found}",
        )
    run.go_to("package")
    if run.outcome == "skipped":
        raise UserError(f"rung {run.rung.name}: {run.reason}")
    if run.outcome == "open" and not _over(run, budget):
        run.go_to("fidelity")
    if run.outcome == "failed":
        say(f"      failed: {run.reason}")


def _layers(run: RungRun) -> int | None:
    assert run.source is not None
    found = read_json(run.source.folder / "config.json").get("num_hidden_layers")
    return int(found) if isinstance(found, int) else None


def _over(run: RungRun, budget: int) -> bool:
    size = run.measured.get("q4f16_bytes")
    return size is not None and float(size.value or 0) > budget


def _compare(runs: Mapping[str, RungRun]) -> None:
    """Decode speeds: on the CPU in turn, and in the browser where there is a GPU."""
    if runs:
        measure_speeds(runs)
    for run in runs.values():
        run.measure_on_gpu()


def _tried(recipe: Recipe, run: RungRun, budget: int) -> Tried:
    found = Tried(recipe, run.measured, over_budget=_over(run, budget))
    if "package" in run.stages:
        build = run.stages["build"].manifest
        found.build_key = build.key
        found.measured |= {"bits_per_weight": _bits_per_weight(run), **costs({"build": build})}
    if found.is_open and WEBGPU_DECODE not in found.measured:
        found.measured[WEBGPU_DECODE] = Measurement.missing(_no_speed(run), "tokens/s")
    if not found.is_open or run.does_not_load:
        found.error = run.reason or run.does_not_load
    return found


def _no_speed(run: RungRun) -> str:
    """Why there is no decode speed of a hardware adapter."""
    if "bench" not in run.stages:
        return run.reason if run.stage == "bench" and run.reason else "software adapter"
    found = run.stages["bench"].manifest.measurements["decode_tokens_per_second"]
    return "software adapter" if found.software_adapter else found.reason or "software adapter"


def _bits_per_weight(run: RungRun) -> Measurement:
    bits = weight_bits(run.stages["package"].folder / GRAPH)
    parameters = int(run.stages["source"].manifest.measurements["parameters"].value or 1)
    how = "weights, scales and zero points of q4f16, over the parent's parameters"
    return Measurement(value=bits / parameters, unit="bits", how=how)


def weight_bits(graph: Path) -> int:
    """Bits of all weights, scales and zero points; tables that the graph computes with are not."""
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    weights = [t for t in tensors if t.name.endswith(WEIGHTS)]
    return 8 * sum(int(ExternalDataInfo(t).length or len(t.raw_data)) for t in weights)


def _answers(run: RungRun, name: str) -> Checked | None:
    """The check of this build alone: its answers to the selected records, decoded freely."""
    run.outcome = "open"  # a browser that failed says nothing about answers
    run.go_to("check")
    if run.outcome != "open":
        say(f"      failed: {run.reason}")
        return None
    return read_checked(run.stages["check"].manifest.key, name)


def choose(tried: Sequence[Tried], budget: float) -> tuple[Tried | None, str]:
    """The best by the rule of shared.pipeline.choose, and why."""
    measured = {t.recipe.name: t.measured for t in tried if t.is_open}
    if not measured and not any(t.over_budget for t in tried):
        return None, "nothing could be measured"
    order, why = rank(measured, budget)
    return next((t for t in tried if t.recipe.name in order[:1]), None), why


def write_choice(tuning: Tuning) -> Path:
    """Put the chosen chain into the domain's olive.json.

    UserError where nothing was chosen, or where a rung's own settings would not fit the new chain;
    then nothing is written.
    """
    path = tuning.domain.folder / "olive.json"
    if tuning.chosen is None:
        raise UserError(f"{paths.shown(path)}: not changed: {tuning.why}")
    name = tuning.chosen.recipe.name
    workflow = tuning.chosen.recipe.workflow(tuning.domain)
    for rung in tuning.domain.chain.rung:
        where = place_of(tuning.domain.folder, rung.name)
        if with_overrides(workflow, rung.olive, f"{where}, after {name}") == workflow:
            continue
        keys = f"{where}: {', '.join(sorted(rung.olive))}"
        if rung.name == tuning.rung:
            raise UserError(
                f"{keys}: this rung would not be built by {name} as it was measured; take that out "
                "of its [rung.olive] first"
            )
        say(f"      {keys}: its builds differ from {name} in this, which was not measured")
    write_text(path, json.dumps(workflow, indent=2) + "\n")
    say(f"{paths.shown(path)}: {name}")
    return path
