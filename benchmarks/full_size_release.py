"""A full-size model through the stages: told, taken, agreed with the CPU; for docs/full-size.md.

$ python -m benchmarks.full_size_release               # the tables, from benchmarks/records/
$ python -m benchmarks.full_size_release --keep tax --root /elsewhere --note "other jobs ran"

Kept is, of the domain's rung that has weights, what was built by today's code and, of each stage after
that, the newest on this package: by `./inv release`, or as far as `./inv bench` goes. What was told is
estimated again, by today's formulas on this machine.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pydantic import Field

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_json
from shared.base.formatting import duration, number
from shared.base.manifest import Manifest, Measurement, Strict
from shared.base.parsing import read_json, validate
from shared.base.tables import table
from shared.release.model import STAGES

FOLDER = paths.REPOSITORY / "benchmarks" / "records" / "full-size"
FIGURES = {
    "positions": "positions compared",
    "parity_logits_error": "logits' relative error",
    "parity_kl_divergence": "KL divergence, nats/token",
    "parity_agreement": "same likeliest token",
    "layers_agree": "every layer agrees",
    "gpu_errors": "GPU errors",
    "peak_gpu_bytes": "GPU memory",
    "load_seconds": "loads in",
}


class Took(Strict):
    """A stage: seconds and peak resident bytes, as told and as measured; `resumed`: measured of the
    last run alone, which went on with another's work."""

    told_seconds: float
    told_bytes: float
    seconds: float
    peak_bytes: int
    resumed: bool = False


class AtSize(Strict):
    """One model; `measured`: of the browser against the CPU, on the very bytes that are released."""

    model: str
    architecture: str
    parameters: int
    taken: str
    adapter: str
    note: str = ""
    stages: dict[str, Took]
    measured: dict[str, Measurement] = Field(default_factory=dict)


def keep(domain_name: str, root: Path, note: str = "") -> Path:
    """Write the record of a domain's full-size rung; UserError where its bench is not done."""
    os.environ["DOCINTEL_ROOT"] = str(root.resolve())
    from shared.domain.domain import load_domain
    from shared.pipeline.chain import select_records
    from shared.pipeline.forecast import configuration, cost_of, finished
    from shared.pipeline.stages import Options, RungRun

    domain, options = load_domain(domain_name), Options()
    for rung in domain.chain.rung:
        run = finished(
            RungRun(domain, rung, rung.exporters[0], select_records(domain, options), options)
        )
        if run.source is not None and "package" in run.stages:
            break
    else:
        raise UserError(f"{domain_name}: no rung is built there by today's code")
    costs = cost_of(run, configuration(run.source.folder))
    made = {stage: done.manifest for stage, done in run.stages.items()}
    made |= _on_package(made["package"].key)
    if "bench" not in made:
        raise UserError(f"{domain_name}: its package was in no browser yet; run `./inv bench`")
    count = made["source"].measurements["parameters"].value
    bench = made["bench"]
    record = AtSize(
        model=rung.base,
        architecture=str(made["source"].facts["architecture"]),
        parameters=count if isinstance(count, int) else 0,
        taken=bench.finished[:10],
        adapter=str((bench.facts.get("adapter") or {}).get("description") or ""),
        note=note,
        stages={
            stage: Took(
                told_seconds=costs[stage].seconds,
                told_bytes=costs[stage].memory,
                seconds=one.wall_seconds,
                peak_bytes=one.peak_rss_bytes,
                resumed=one.resumed,
            )
            for stage, one in made.items()
            if stage in costs
        },
        measured={name: m for name, m in bench.measurements.items() if name in FIGURES},
    )
    return write_json(FOLDER / f"{record.architecture}.json", record.model_dump())


def _on_package(key: str) -> dict[str, Manifest]:
    """The newest manifest of each stage that reads this package; one that goes on later counts."""
    newest: dict[str, Manifest] = {}
    for stage in ("fidelity", "check", "overflow", "bench"):
        every = (
            Manifest.read(file.parent) for file in (paths.build() / stage).glob("*/manifest.json")
        )
        own = [one for one in every if one.inputs.get("package") == key]
        if own:
            newest[stage] = max(own, key=lambda one: one.finished)
    return newest


def records() -> list[AtSize]:
    """The committed ones, by architecture."""
    files = sorted(FOLDER.glob("*.json"))
    return [validate(read_json(file), AtSize, paths.shown(file)) for file in files]


def stage_table(kept: list[AtSize]) -> str:
    """Markdown: a row a stage, "measured (told)" for each model."""
    names = [stage for stage in STAGES if any(stage in record.stages for record in kept)]
    heads = ["seconds and peak memory, measured (told)", *(r.architecture for r in kept)]
    rows = [(name, *(_took(record.stages.get(name)) for record in kept)) for name in names]
    return table(heads, rows, "github")


def _took(one: Took | None) -> str:
    if one is None:
        return "not run"
    rest = ", the rest of another run's" if one.resumed else ""
    seconds = f"{duration(one.seconds)}{rest} ({duration(one.told_seconds)})"
    return f"{seconds}; {number(one.peak_bytes, 'B')} ({number(one.told_bytes, 'B')})"


def parity_table(kept: list[AtSize]) -> str:
    """Markdown: what the browser computed of the released file, against onnxruntime's CPU."""
    heads = ["WebGPU against the CPU, whole model", *(record.architecture for record in kept)]
    rows = [(said, *(_figure(record, name) for record in kept)) for name, said in FIGURES.items()]
    return table(heads, rows, "github")


def _figure(record: AtSize, name: str) -> str:
    found = record.measured.get("parity_logits_error" if name == "positions" else name)
    if found is None:
        return "not measured"
    if name == "positions":
        return f"{found.n or 0}"
    if found.value is None or isinstance(found.value, bool):
        return f"not measured: {found.reason}" if found.value is None else _said(found)
    return (
        number(found.value, found.unit) if found.unit in ("B", "s", "%") else f"{found.value:.3g}"
    )


def _said(found: Measurement) -> str:
    return "yes" if found.value else f"no: {found.reason}"


def section() -> str:
    """Markdown of all that is kept; one sentence where nothing is."""
    kept = records()
    if not kept:
        return "Not measured: no record of it was kept yet."
    about = [
        f"*{r.architecture}*: {r.parameters / 1e9:.3g} billion values; {r.adapter}; {r.taken}"
        + (f"; {r.note}" if r.note else "")
        for r in kept
    ]
    return "\n\n".join([stage_table(kept), parity_table(kept), ". ".join(about) + "."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", metavar="DOMAIN")
    parser.add_argument("--root", type=Path, default=paths.root(), help="where it was run")
    parser.add_argument("--note", default="", help="what else must be known of that run")
    asked = parser.parse_args()
    if asked.keep:
        file = keep(asked.keep, asked.root, asked.note)
        print(file.relative_to(paths.REPOSITORY))
    else:
        print(section())


if __name__ == "__main__":
    main()
