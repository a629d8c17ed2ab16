"""The engines side by side: a table for a person, and the raw samples for everything else.

csv: one line a figure (mean, sd, n, samples). jsonl: one line a sample. json: the rows as they are.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from shared.base import paths
from shared.base.files import write_text
from shared.base.formatting import number
from shared.base.tables import table
from shared.webgpu_bench.engines.side_by_side import Row
from shared.webgpu_bench.speed import Figure, at

SOFTWARE_NOTE = "* software adapter: a GPU computed on the CPU, says nothing about one"
REFERENCE = "native"
"""Ratios are against onnxruntime on the CPU where it was measured: every machine can run it."""
BUSY = 15
"""Per cent of all cores by other programs from which on speeds on the CPU are not to be trusted."""
CSV_HEAD = (
    *("domain", "rung", "engine", "dtype", "runtime", "where", "software_adapter"),
    *("test", "tokens", "mean_tokens_per_second", "sd", "n", "samples", "reason"),
)


def engines_table(rows: Sequence[Row], style: str = "github") -> str:
    """Every row with its speeds as mean ± sd; the last columns compare it with the others."""
    names = point_names(rows)
    reference = reference_row(rows)
    heads = ("domain", "engine", "load", "again", *names, "memory", "same ids")
    against = f"decode vs {reference.engine}" if reference else "ratio"
    body = [
        (
            row.domain,
            row.engine + ("*" if row.run and row.run.software_adapter else ""),
            _seconds(row.run.load_seconds if row.run else None),
            _seconds(row.run.warm_load_seconds if row.run else None),
            *(_cell(row, name) for name in names),
            memory(row),
            row.same_ids,
            ratio_text(row, reference_for(row, rows), reference),
            where(row),
        )
        for row in rows
    ]
    return table((*heads, against, "where, or why not"), body, style)


def point_names(rows: Sequence[Row]) -> list[str]:
    """The points of any row, prefills first, by tokens."""
    found = {f.name: (f.test != "prefill", f.tokens) for row in rows for f in row.figures}
    return sorted(found, key=lambda name: found[name])


def reference_row(rows: Sequence[Row]) -> Row | None:
    """The first row that ratios may stand on: onnxruntime's CPU, else one not in software."""
    measured = [row for row in rows if decode(row)]
    on_cpu = [row for row in measured if row.engine == REFERENCE]
    real = [row for row in measured if row.run and not row.run.software_adapter]
    return next(iter([*on_cpu, *real]), None)


def reference_for(row: Row, rows: Sequence[Row]) -> Row | None:
    """The reference of the row's own domain."""
    return reference_row([other for other in rows if other.domain == row.domain])


def decode(row: Row) -> Figure | None:
    """Decode from an empty cache, the figure that gates and ratios use."""
    return at(row.figures, "decode", 0)


def ratio_text(row: Row, reference: Row | None, headed: Row | None) -> str:
    """The row's decode speed over its domain's reference; named where the head has another."""
    ours, theirs = decode(row), decode(reference) if reference else None
    if not ours or not theirs:
        return ""
    ratio = ours.mean / theirs.mean
    text = f"{ratio:.2f}×" if ratio >= 0.1 else f"{ratio:.2g}×"
    other = reference and headed and reference.engine != headed.engine
    return f"{text} {reference.engine}" if reference and other else text


def spread(figure: Figure) -> str:
    """mean ± sd, three figures of what is below a thousand."""
    sd = figure.sd
    return figures_of(figure.mean, 3) + (f" ± {figures_of(sd, 2)}" if sd is not None else "")


def figures_of(value: float, count: int) -> str:
    """So many figures, and all before the point: 2,345 is no 2.35e+03."""
    text = f"{value:.{count}g}"
    return f"{value:,.0f}" if "e+" in text else text


def memory(row: Row) -> str:
    """Requested GPU buffer bytes in a browser, resident bytes of a process elsewhere."""
    run = row.run
    if run and run.peak_gpu_bytes:
        return f"{number(run.peak_gpu_bytes, 'B')} GPU"
    return f"{number(run.peak_rss_bytes, 'B')} RSS" if run and run.peak_rss_bytes else ""


def where(row: Row) -> str:
    """Runtime and processor, or the reason."""
    if row.run is None:
        return f"not measured: {row.reason}"
    threads = f", {row.run.threads} threads" if row.run.threads else ""
    same = row.run.agreement
    agrees = f", {same[0]} of {same[1]} tokens as on the CPU" if same else ""
    return f"{row.run.dtype}, {row.run.runtime}, {row.run.where}{threads}{agrees}"


def busy_note(rows: Sequence[Row]) -> str:
    """A warning where other programs ran beside the engines; empty on a quiet machine."""
    known = [row.run.busy_percent for row in rows if row.run and row.run.busy_percent is not None]
    if max(known, default=0) < BUSY:
        return ""
    return (
        f"other programs kept the processor up to {max(known):.0f} % busy: engines on the CPU were "
        "slower than they are alone, those with several threads most of all"
    )


def write_engines(rows: Sequence[Row], stem: str) -> list[Path]:
    """build/reports/<stem>.md, .csv, .json and .jsonl."""
    contents = {
        "md": engines_table(rows) + f"\n\n{SOFTWARE_NOTE}\n\n{busy_note(rows)}\n",
        "csv": _csv(rows),
        "json": json.dumps([r.model_dump() for r in rows], indent=2, ensure_ascii=False) + "\n",
        "jsonl": "".join(json.dumps(sample) + "\n" for sample in samples(rows)),
    }
    return [write_report(f"{stem}.{kind}", text) for kind, text in contents.items()]


def write_report(name: str, text: str) -> Path:
    """Whole or not at all, under build/reports/."""
    return write_text(paths.build() / "reports" / name, text)


def samples(rows: Sequence[Row]) -> list[dict[str, object]]:
    """One entry a measured run, and one for each engine that was not measured."""
    found: list[dict[str, object]] = []
    for row in rows:
        head: dict[str, object] = {"domain": row.domain, "rung": row.rung, "engine": row.engine}
        if row.run is None:
            found.append(head | {"reason": row.reason})
            continue
        head |= {"dtype": row.run.dtype, "software_adapter": row.run.software_adapter}
        for figure in row.figures:
            for number_, value in enumerate(figure.samples):
                point = {"test": figure.test, "tokens": figure.tokens, "repetition": number_}
                found.append(head | point | {"tokens_per_second": value})
    return found


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CSV_HEAD)
    for row in rows:
        run = row.run
        if run is None:
            writer.writerow([row.domain, row.rung, row.engine, *[""] * 10, row.reason])
            continue
        head = [row.domain, row.rung, row.engine, run.dtype, run.runtime, run.where]
        for f in row.figures:
            values = " ".join(f"{value:.6g}" for value in f.samples)
            sd = "" if f.sd is None else f"{f.sd:.6g}"
            mean = f"{f.mean:.6g}"
            tail = [run.software_adapter, f.test, f.tokens, mean, sd, len(f.samples), values, ""]
            writer.writerow([*head, *tail])
    return text.getvalue()


def _seconds(value: float | None) -> str:
    return f"{figures_of(value, 2)} s" if value is not None else ""


def _cell(row: Row, name: str) -> str:
    figure = next((f for f in row.figures if f.name == name), None)
    return spread(figure) if figure else ""
