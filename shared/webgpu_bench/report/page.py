"""bench-all.html: one file, no request to anywhere, light and dark, phone and desktop.

Bars are computed here and lines drawn by matplotlib; the template (sandboxed Jinja2, everything else
escaped) places them.
"""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.base.formatting import number
from shared.webgpu_bench.engines.job import processor
from shared.webgpu_bench.engines.side_by_side import ENGINES, Row
from shared.webgpu_bench.measurements import UNREACHED
from shared.webgpu_bench.report.quality import Quality, quality_parts
from shared.webgpu_bench.report.svg import colour as inked
from shared.webgpu_bench.report.svg import drawn, log_scale
from shared.webgpu_bench.report.tables import (
    busy_note,
    decode,
    figures_of,
    memory,
    point_names,
    ratio_text,
    reference_for,
    reference_row,
    spread,
    where,
)
from shared.webgpu_bench.speed import NO_SPEED, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHALLOW = 64
"""Tokens between an engine's depths below which a line would say nothing."""


@dataclass(frozen=True)
class Bar:
    """One horizontal bar; share and the error's ends are per cent of the widest. No value: `reason`."""

    label: str
    colour: int
    text: str = ""
    share: float = 0.0
    low: float | None = None
    high: float | None = None
    software: bool = False
    reason: str = ""


def render_page(rows: Sequence[Row], quality: Sequence[Quality] = ()) -> str:
    """The whole page as HTML."""
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        _context(rows) | {"quality": quality_parts(quality)}
    )


def _context(rows: Sequence[Row]) -> dict[str, Any]:
    domains = list(dict.fromkeys(row.domain for row in rows))
    of = {name: [row for row in rows if row.domain == name] for name in domains}
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _machine(rows),
        "any_software": any(row.run and row.run.software_adapter for row in rows),
        "busy": busy_note(rows),
        "domains": domains,
        "engines": [name for name in (*ENGINES, "webgpu") if any(r.engine == name for r in rows)],
        "matrix": _matrix(rows, domains),
        "speed": {name: speed_bars(of[name], rows) for name in domains},
        "depth": {name: chart for name in domains if (chart := depth_chart(of[name]))},
        "memory": {name: memory_bars(of[name], rows) for name in domains},
        "points": point_names(rows),
        "against": f"× {reference.engine}" if (reference := reference_row(rows)) else "ratio",
        "table": [_table_row(row, rows) for row in rows],
        "colour": colour,
    }


def colour(engine: str) -> int:
    """Each engine keeps its colour on the whole page."""
    return list(ENGINES).index(engine) if engine in ENGINES else 1


def _machine(rows: Sequence[Row]) -> list[tuple[str, str]]:
    runs = [row.run for row in rows if row.run]
    adapters = {
        run.where + (" (software adapter)" if run.software_adapter else "")
        for run in runs
        if run.peak_gpu_bytes or run.software_adapter
    }
    flags = list(dict.fromkeys(flag for run in runs for flag in run.flags))
    return [
        ("processor", f"{processor()}, {psutil.cpu_count()} cores"),
        ("memory", number(psutil.virtual_memory().total, "B")),
        ("WebGPU adapters", "; ".join(sorted(adapters)) or "none"),
        ("browsers", "; ".join(sorted({run.browser for run in runs if run.browser})) or "none"),
        ("system", platform.platform()),
        ("browser flags", " ".join(flags) or "none"),
    ]


def speed_bars(rows: Sequence[Row], all_rows: Sequence[Row]) -> list[Bar]:
    """Decode from an empty cache; one scale for the whole page, so that domains compare."""
    found = [figure for row in all_rows if (figure := decode(row))]
    widest = max((f.mean + (f.sd or 0) for f in found), default=1.0)
    return [_speed_bar(row, widest) for row in rows]


def _speed_bar(row: Row, widest: float) -> Bar:
    figure = decode(row)
    if figure is None:
        software = bool(row.run and row.run.software_adapter)
        reason = row.reason or (NO_SPEED if software else UNREACHED)
        return Bar(row.engine, colour(row.engine), reason=reason)
    low = high = None
    if figure.sd is not None:
        low = 100 * max(0.0, figure.mean - figure.sd) / widest
        high = 100 * (figure.mean + figure.sd) / widest
    software = bool(row.run and row.run.software_adapter)
    text = f"{spread(figure)} tok/s"
    share = 100 * figure.mean / widest
    return Bar(row.engine, colour(row.engine), text, share, low, high, software)


def memory_bars(rows: Sequence[Row], all_rows: Sequence[Row]) -> list[Bar]:
    """Peak bytes: of GPU buffers where a page counts them, of the process elsewhere."""
    widest = max((_bytes(row) or 0 for row in all_rows), default=0) or 1
    bars = []
    for row in rows:
        size = _bytes(row)
        if size:
            bars.append(Bar(row.engine, colour(row.engine), memory(row), 100 * size / widest))
        else:
            reason = row.reason or "a page is told neither its tab's memory nor its workers'"
            bars.append(Bar(row.engine, colour(row.engine), reason=reason))
    return bars


def _bytes(row: Row) -> int | None:
    return (row.run.peak_gpu_bytes or row.run.peak_rss_bytes) if row.run else None


def depth_chart(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Decode by tokens in the cache, as SVG; None where no engine goes SHALLOW deep."""
    lines = {row.engine: [f for f in row.figures if f.test == "decode"] for row in rows}
    lines = {engine: found for engine, found in lines.items() if _reach(found) >= SHALLOW}
    return {"svg": _drawn(lines), "engines": [(e, colour(e)) for e in lines]} if lines else None


def _drawn(lines: dict[str, list[Figure]]) -> str:
    """The speed on a log scale with its deviation."""

    def draw(axes: "Axes") -> None:
        for engine, found in lines.items():
            x, y = [f.tokens for f in found], [f.mean for f in found]
            down, up = [f.mean - _least(f) for f in found], [f.sd or 0.0 for f in found]
            line = inked(colour(engine))
            axes.errorbar(x, y, yerr=(down, up), marker="o", color=line, clip_on=False)
        axes.margins(y=0)
        axes.set(yscale="log", xlabel="tokens in the cache", ylabel="tokens/s")
        low, high = map(math.log10, axes.get_ylim())
        axes.set_ylim(10.0 ** math.floor(low), 10.0 ** math.ceil(high))
        log_scale(axes)
        axes.grid(alpha=0.2)

    return drawn(2.8, draw)


def _reach(found: list[Figure]) -> int:
    depths = [figure.tokens for figure in found]
    return max(depths) - min(depths) if depths else 0


def _least(figure: Figure) -> float:
    low = figure.mean - (figure.sd or 0)
    return low if low > 0 else figure.mean


def _matrix(rows: Sequence[Row], domains: list[str]) -> list[dict[str, Any]]:
    """Domains × engines: decode from an empty cache."""
    by_key = {(row.domain, row.engine): row for row in rows}
    engines = list(dict.fromkeys(row.engine for row in rows))
    engines.sort(key=lambda name: list(ENGINES).index(name) if name in ENGINES else -1)
    return [
        {"engine": engine, "cells": [_cell(by_key.get((d, engine))) for d in domains]}
        for engine in engines
    ]


def _cell(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {"text": "not asked", "why": "", "software": False, "missing": True}
    figure = decode(row)
    if figure is None:
        return {"text": "not measured", "why": row.reason or "", "software": False, "missing": True}
    software = bool(row.run and row.run.software_adapter)
    return {"text": spread(figure), "why": where(row), "software": software, "missing": False}


def _table_row(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    figures = {figure.name: figure for figure in row.figures}
    run = row.run
    return {
        "domain": row.domain,
        "engine": row.engine,
        "software": bool(run and run.software_adapter),
        "load": _sortable(run.load_seconds if run else None, " s"),
        "again": _sortable(run.warm_load_seconds if run else None, " s"),
        "cells": [
            (figures[n].mean, spread(figures[n])) if n in figures else ("", "")
            for n in point_names(rows)
        ],
        "memory": (_bytes(row) or "", memory(row)),
        "same": row.same_ids,
        "ratio": ratio_text(row, reference_for(row, rows), reference_row(rows)),
        "where": where(row),
    }


def _sortable(value: float | None, unit: str) -> tuple[float | str, str]:
    return ("", "") if value is None else (value, f"{figures_of(value, 2)}{unit}")
