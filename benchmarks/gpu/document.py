"""docs/gpu.md, all of it from the results.json that came back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from benchmarks.gpu.graphs import MODELS
from benchmarks.gpu.measure import DEPTHS
from benchmarks.gpu.variants import VARIANTS
from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.formatting import number
from shared.base.manifest import Measurement, Strict
from shared.base.parsing import read_json, validate
from shared.base.tables import shown, table

DOCUMENT = paths.REPOSITORY / "docs" / "gpu.md"
RELEASED, ROUNDING_OFF = VARIANTS[0].name, VARIANTS[1].name
SOFTWARE = (
    "> **No GPU was at hand. This is a run on a software adapter, {adapter}, so that the\n"
    "> measuring is known to work. Its speeds are a CPU's: they say nothing of a GPU, and nothing\n"
    "> passes by them.**\n"
)
ONE_BY_ONE = """
With subgroups of 4, as SwiftShader has them, onnxruntime's attention kernel for several tokens is wrong
for all after the fourth, and the native provider cannot be kept from subgroups. So here every compared
token is a pass of its own, whose kernel is another one; what prefill computed was not compared.
"""
HEAD = """# Native WebGPU on {device}

{software}
Written by `python -m benchmarks.gpu document` from what `python measure.py` measured on {date}, packed
on {made} by `python -m benchmarks.gpu pack`. Adapter: {adapter}; the CPU beside it: {cpu},
{cores} cores; {runtime}, Dawn on Vulkan, no browser.

Prefill is one pass of {prompt} tokens, the download of all its logits counted in, as a page has it;
decode@n is one token after the other behind n others (a cache of zeros: their number alone takes time).
GPU memory is what nvidia-smi saw taken. The last three columns compare {positions} positions, {single}
of them read one by one as in decoding, with the CPU reading the same weights without any rounding of
activations (accuracy level 1): mean KL(CPU ‖ WebGPU) over the whole vocabulary, the share of positions
with the same likeliest token, and the largest difference of a logit over the position's largest one.
Random weights have the bytes and shapes of the real ones; their KL is no measure of quality.
"""
COLUMNS = {
    "prefill": "prefill",
    **{f"decode_{depth}": f"decode@{depth}" for depth in DEPTHS},
    "gpu_memory": "GPU memory",
    "data_bytes": "weights",
    "load_seconds": "load",
    "parity_kl": "KL",
    "parity_top1": "same top-1",
    "parity_logits": "logits",
}


class Run(Strict):
    """One graph: its figures by name, and facts beside them."""

    model: str
    dtype: str
    variant: str
    words: str
    weights: str
    figures: dict[str, Measurement]
    facts: dict[str, object] = Field(default_factory=dict)
    finished: bool
    no_f16: bool

    def figure(self, name: str) -> Measurement:
        return self.figures.get(name) or Measurement.missing("there is no such figure")


class Machine(Strict):
    """Where it ran."""

    adapter: str
    software_adapter: bool
    cpu: str
    cores: int


class Results(Strict):
    """results.json, version 1; `limits`: how much was read."""

    version: int
    machine: Machine
    limits: dict[str, int]
    made: str
    date: str
    runs: dict[str, Run]


def read_results(path: Path) -> Results:
    """UserError naming file and key where it is not what measure.py writes."""
    if not path.is_file():
        raise UserError(f"{paths.shown(path)}: no such file")
    return validate(read_json(path), Results, paths.shown(path))


def write_document(results: Results, out: Path = DOCUMENT) -> Path:
    """Renew the document."""
    return write_text(out, document(results))


def document(results: Results) -> str:
    """All of docs/gpu.md."""
    machine = results.machine
    software = SOFTWARE.format(adapter=machine.adapter) if machine.software_adapter else ""
    versions = {str(r.facts["version"]) for r in results.runs.values() if "version" in r.facts}
    head = HEAD.format(
        device="a software adapter" if machine.software_adapter else machine.adapter,
        software=software,
        runtime=f"onnxruntime-webgpu {', '.join(sorted(versions)) or 'that never loaded'}",
        date=results.date,
        made=results.made,
        **machine.model_dump(include={"adapter", "cpu", "cores"}),
        **{key: results.limits[key] for key in ("prompt", "positions", "single")},
    )
    groups = dict.fromkeys((r.model, r.dtype) for r in results.runs.values() if r.figures)
    sections = [_section(results, model, dtype) for model, dtype in groups]
    if machine.software_adapter:
        head += ONE_BY_ONE
    return "\n".join([head, *sections, *_rounding(results), *_absent(results)]).rstrip() + "\n"


def _section(results: Results, model: str, dtype: str) -> str:
    """One model's variants; a reason stands once, below the table."""
    found = [r for r in results.runs.values() if (r.model, r.dtype) == (model, dtype)]
    runs = [run for run in found if run.figures]
    weights = ", ".join(dict.fromkeys(run.weights for run in runs))
    title = f"## {model}, {dtype}, {weights} weights\n"
    if all(run.no_f16 for run in runs):
        return f"{title}\nNot measured: {runs[0].figure('parity_kl').reason}\n"
    reasons: dict[str, int] = {}
    rows = [(run.words, *(_cell(run.figure(n), reasons) for n in COLUMNS)) for run in runs]
    notes = [f"{index}. not measured: {reason}" for reason, index in reasons.items()]
    parts = [title, table(("", *COLUMNS.values()), rows), ""]
    return "\n".join([*parts, *notes, ""] if notes else parts)


def _cell(figure: Measurement, reasons: dict[str, int]) -> str:
    if figure.value is not None:
        return shown(figure.model_copy(update={"n": None}))
    index = reasons.setdefault(figure.reason or "no reason was given", len(reasons) + 1)
    return f"not measured ({index})"


def _rounding(results: Results) -> Iterator[str]:
    """What int8 activations cost and win: the released graph beside the same with accuracy level 1."""
    rows = []
    for name, released in results.runs.items():
        exact = results.runs.get(name.removesuffix(RELEASED) + ROUNDING_OFF)
        if released.variant == RELEASED and exact and not released.no_f16:
            kl = [shown(run.figure("parity_kl")) for run in (released, exact)]
            rows.append(
                (f"{released.model}, {released.dtype}", *kl, _times(results, released, exact))
            )
    if rows:
        yield "## What int8 activations in blocks of 128 cost in KL, and win in prefill\n"
        heads = (
            "",
            "KL, accuracy level 4",
            "KL, accuracy level 1",
            "prefill, level 4 over level 1",
        )
        yield table(heads, rows) + "\n"


def _times(results: Results, released: Run, exact: Run) -> str:
    if results.machine.software_adapter:
        return "not measured: a software adapter's time is no GPU's"
    speeds = [run.figure("prefill").value for run in (released, exact)]
    if not all(isinstance(speed, float) and speed > 0 for speed in speeds):
        return "not measured: a prefill is missing"
    return f"{number(float(speeds[0] or 0) / float(speeds[1] or 1), '')}×"


def _absent(results: Results) -> Iterator[str]:
    """What was planned and not run, and models of which nothing was planned."""
    planned: dict[str, list[str]] = {}
    for run in results.runs.values():
        if not run.figures:
            planned.setdefault(f"{run.model}, {run.dtype}", []).append(run.variant)
    have = {run.model for run in results.runs.values()}
    lines = [f"- {name} ({', '.join(v)}): packed, not run" for name, v in planned.items()]
    lines += [f"- {model}: not packed" for model in MODELS if model not in have]
    if lines:
        yield "\n".join(["## Not measured", "", *lines])
