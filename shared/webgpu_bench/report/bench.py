"""What `bench` and `bench-all` print last, and the files they name."""

from collections.abc import Sequence

from shared.base import paths
from shared.base.errors import UserError
from shared.base.progress import say
from shared.webgpu_bench.engines.questions import Benched
from shared.webgpu_bench.engines.side_by_side import Row, parse_engines, side_by_side
from shared.webgpu_bench.report.page import render_page
from shared.webgpu_bench.report.quality import Quality
from shared.webgpu_bench.report.tables import (
    SOFTWARE_NOTE,
    busy_note,
    engines_table,
    write_engines,
    write_report,
)

BROWSERS = ("firefox",)


def chosen_engines(engines: str, browser: str = "") -> list[str]:
    """The engines that the command line asked for; UserError for a name that is none."""
    if browser and browser not in BROWSERS:
        raise UserError(f"--browser: no browser {browser!r}; valid are: {', '.join(BROWSERS)}")
    names = parse_engines(engines)
    return [*names, "firefox"] if browser == "firefox" and "firefox" not in names else names


def bench_report(
    models: list[Benched],
    names: list[str],
    stem: str,
    *,
    html: str = "",
    quality: Sequence[Quality] = (),
    force: bool = False,
) -> str:
    """The table for the terminal; writes <stem>.{md,csv,json,jsonl} and, if named, the page, to which
    the last line links."""
    rows: list[Row] = []
    for benched in models:
        if names:
            say(f"[engines] {benched.domain.name} · {', '.join(names)}")
        rows += side_by_side(benched, names, force=force)
    written = write_engines(rows, stem)
    table = engines_table(rows, "rounded_outline")
    notes = filter(None, (SOFTWARE_NOTE, busy_note(rows)))
    lines = [table, *notes, *(paths.shown(path) for path in written)]
    if html:
        lines.append(f"to look at: {write_report(html, render_page(rows, quality)).as_uri()}")
    return "\n".join(lines)
