"""A full-size model through the stages: told, taken, agreed with the CPU; for docs/full-size.md.

$ python -m benchmarks.full_size_release               # the tables, from benchmarks/records/
$ python -m benchmarks.full_size_release --keep tax --root /elsewhere --note "other jobs ran"
$ python -m benchmarks.full_size_release --read tax 24 40      # texts so long, each in one pass

Kept is, of the domain's rung that has weights, what was built by today's code and, of each stage after
that, the newest on this package: by `./inv release`, or as far as `./inv bench` goes. What was told is
estimated again, by today's formulas on this machine. `--read` asks more than a release does of a large
model, whose texts have 24 tokens: attention over longer ones, too.
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
from shared.base.progress import say
from shared.base.tables import table
from shared.evaluate.token_windows import held_out, windows_of
from shared.release.model import STAGES
from shared.setup.browser import find_browser
from shared.webgpu_bench.driver import run_in_browser
from shared.webgpu_bench.parity import Batching, Decoder, compare, request

FOLDER = paths.REPOSITORY / "benchmarks" / "records" / "full-size"
READ_SECONDS = 1500
"""A software adapter's, for one text."""
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


class Read(Strict):
    """A text of so many tokens, all but the last in one pass; `seconds` of both passes in the page."""

    tokens: int
    seconds: float
    error: float
    divergence: float
    agreement: float


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
    reads: list[Read] = Field(default_factory=list)


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
    file = FOLDER / f"{record.architecture}.json"
    if file.is_file():  # the bytes that are released are the same ones, by their domain's package
        record.reads = validate(read_json(file), AtSize, paths.shown(file)).reads
    return write_json(file, record.model_dump())


def read(domain_name: str, root: Path, lengths: list[int]) -> Path:
    """Have the browser and the CPU read a held-out text of each length; added to the kept record."""
    os.environ["DOCINTEL_ROOT"] = str(root.resolve())
    from shared.domain.domain import load_domain
    from shared.evaluate.models.chat import Chat
    from shared.evaluate.models.onnx import OnnxDecoder
    from shared.release.model import read_release, release_folder

    folder = release_folder(domain_name)
    release, domain, chat = read_release(folder), load_domain(domain_name), Chat(folder)
    architecture = str(release.facts["source"]["architecture"])
    file = FOLDER / f"{architecture}.json"
    record = validate(read_json(file), AtSize, paths.shown(file))
    graph = OnnxDecoder(folder / "onnx" / "model_q4.onnx", exact=True)
    text = held_out(domain.prompt, domain.records)
    record.reads = [_read(folder, graph, windows_of(chat, text, n, n)[:1]) for n in lengths]
    return write_json(file, record.model_dump())


def _read(folder: Path, graph: Decoder, rows: list[list[int]]) -> Read:
    count = len(rows[0])
    how = Batching(count, batch=1, piece=count - 1, longest=count)
    browser = find_browser()
    assert browser is not None
    result = run_in_browser(
        folder,
        {
            "model": folder.name,
            "dtype": "q4",
            "prompts": [],
            "placement": False,
            "deadline_ms": 1000 * READ_SECONDS,
            "parity": request(rows, how),
        },
        browser=browser.path,
        timeout_s=READ_SECONDS + 60,
        on_progress=say,
        adapter="software",
    )
    if result.parity is None:
        raise UserError(f"{count} tokens: {result.outcome}: {result.error}")
    compared = compare(graph, rows, result.parity)
    return Read(
        tokens=len(compared.error),
        seconds=round(sum(piece.ms for piece in result.parity.pieces) / 1000, 1),
        error=float(compared.error.max()),
        divergence=float(compared.divergence.mean()),
        agreement=float(compared.agreement.mean()),
    )


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


def reads_table(kept: list[AtSize]) -> str:
    """Markdown: texts of several lengths, each read in one pass and the token after it."""
    heads = [
        "a text of",
        "model",
        "seconds",
        "logits' relative error",
        "KL, nats/token",
        "same token",
    ]
    rows = [
        (f"{one.tokens} tokens", record.architecture, f"{one.seconds:.0f}", f"{one.error:.2e}",
         f"{one.divergence:.2e}", f"{one.agreement:.4g}")
        for record in kept for one in record.reads
    ]  # fmt: skip
    return table(heads, rows, "github") if rows else "Longer texts: not measured."


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
    tables = [stage_table(kept), parity_table(kept), reads_table(kept)]
    return "\n\n".join([*tables, ". ".join(about) + "."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", metavar="DOMAIN")
    parser.add_argument("--read", nargs="+", metavar=("DOMAIN", "TOKENS"))
    parser.add_argument("--root", type=Path, default=paths.root(), help="where it was run")
    parser.add_argument("--note", default="", help="what else must be known of that run")
    asked = parser.parse_args()
    if asked.read:
        domain, *lengths = asked.read
        print(read(domain, asked.root, list(map(int, lengths))).relative_to(paths.REPOSITORY))
    elif asked.keep:
        file = keep(asked.keep, asked.root, asked.note)
        print(file.relative_to(paths.REPOSITORY))
    else:
        print(section())


if __name__ == "__main__":
    main()
