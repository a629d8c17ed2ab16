"""`python -m benchmarks.forced`: forced text beside token by token, written to docs/forced.md.

    gold       along the gold answers, without a model: what is forced
    cpu        onnxruntime-genai: model runs, values, and why some differ
    wasm       the page's own loop in Chromium: seconds, and its answers beside the check's
    webgpu     the same on WebGPU's software adapter: dispatches and buffers, too
    full-size  a large model reads gold answers by forced runs and by tokens
    document   nothing anew: the page from the rows that are there

Each row is kept in build/forced/rows.jsonl as it comes, so that what was interrupted goes on, and
more records cost only themselves; what was measured of other cases stays in docs/measured/forced.json.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime

from benchmarks.forced import cpu, full_size, gold, page
from benchmarks.forced.document import DOCUMENT, render
from benchmarks.forced.figures import FIGURES, Figures, figures_of, read_figures
from benchmarks.forced.rows import Case, Rows, given, made
from benchmarks.page_answers import DOMAINS
from shared.base import paths
from shared.base.cpu import set_variables
from shared.base.files import write_text
from shared.base.manifest import tool_versions

PARTS = ("gold", "cpu", "wasm", "webgpu", "full-size", "document")
RUNGS = ("embedded", "example")


def cases(packages: list[str]) -> list[Case]:
    """Those given; without any, each domain's embedded model and, where it has one, its example."""
    if packages:
        return [given(text) for text in packages]
    wanted = [(domain, rung) for domain in DOMAINS for rung in RUNGS]
    return [case for domain, rung in wanted if (case := made(domain, rung))]


def measure(case: Case, rows: Rows, part: str, asked: argparse.Namespace) -> None:
    """One part of one case; what is there already is not measured again."""
    if part == "gold":
        gold.measure(case, rows)
    if part == "cpu":
        cpu.measure(case, rows, asked.records)
    if part in ("wasm", "webgpu"):
        forced = asked.records if part == "wasm" else asked.documents
        counts = dict(zip(cpu.WAYS, (forced, asked.documents), strict=True))
        page.measure(case, rows, "wasm" if part == "wasm" else "webgpu", counts)
    if part == "full-size":
        full_size.measure(case, rows, asked.documents)


def write(measured: list[Case], rows: Rows, count: int) -> None:
    """The figures and the document, with what was measured before of other cases."""
    taken = datetime.now(UTC).date().isoformat()
    new = [figures_of(case, rows, count, taken) for case in measured]
    known = {(one.domain, one.rung): one for one in read_figures().measured}
    for one in new:
        name = (one.domain, one.rung)
        known[name] = one.after(known[name]) if name in known else one
    place = {name: index for index, name in enumerate(DOMAINS)}
    figures = Figures(
        machine=f"{os.cpu_count()} cores, no GPU",
        tools=tool_versions("onnxruntime-genai", "xgrammar"),
        measured=sorted(known.values(), key=lambda one: (place.get(one.domain, 9), one.rung)),
    )
    write_text(FIGURES, figures.model_dump_json(indent=1) + "\n")
    write_text(DOCUMENT, render(figures))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forced",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--package", action="append", default=[], help="DOMAIN/RUNG=FOLDER; else they are built"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="default: the first four")
    parser.add_argument("--records", type=int, default=16, help="answered on the CPU and in wasm")
    parser.add_argument(
        "--documents", type=int, default=2, help="answered both ways in the browser, or read"
    )
    asked = parser.parse_args()
    set_variables()
    if asked.part == ["document"]:  # a package that came out otherwise would have no rows
        write_text(DOCUMENT, render(read_figures()))
        return
    rows, measured = Rows(paths.build() / "forced" / "rows.jsonl"), cases(asked.package)
    for part in asked.part or PARTS[:4]:
        for case in measured:
            measure(case, rows, part, asked)
            write(measured, rows, asked.records)


if __name__ == "__main__":
    main()
