"""The outcome of a tuning as a table, a plot and files under build/reports/."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

from shared.base import paths
from shared.base import text as marks
from shared.base.errors import UserError
from shared.base.formatting import number
from shared.base.manifest import Measurement
from shared.base.tables import shown, table
from shared.evaluate.scoring.statistics import Paired
from shared.pipeline.tune.recipes import load_recipes
from shared.pipeline.tune.scores import SHOWN
from shared.pipeline.tune.tune import WEBGPU, Tried, Tuning
from shared.release.card.recipe import report_file

COLUMNS = {
    "bytes": "bytes",
    "bits_per_weight": "bits per weight",
    "kl_divergence": "KL divergence",
    "agreement": "agreement",
    "answer_agreement": "agreement within answers",
    "perplexity_ratio": "perplexity ratio",
    "build_seconds": "build",
    "peak_rss": "peak memory",
    "cpu_decode_tokens_per_second": "CPU decode",
    WEBGPU: "WebGPU decode",
}
SPEED = "Only the CPU's decode speed decided; WebGPU's is shown where there is a hardware adapter."


def rows(tuning: Tuning) -> list[list[str]]:
    """One row a recipe that was built, the best KL divergence first; `*` marks the chosen one and
    `+` those that no other beats in both bytes and KL divergence."""
    built = [t for t in tuning.tried if t.measured]
    built.sort(key=lambda t: t.value("kl_divergence") if t.is_open else math.inf)
    front = pareto(built)
    return [
        [_name(t, t is tuning.chosen, t in front), *(_cell(t, column) for column in COLUMNS)]
        for t in built
    ]


def _name(tried: Tried, chosen: bool, on_front: bool) -> str:
    return tried.recipe.name + ("*" if chosen else "") + ("+" if on_front else "")


def _cell(tried: Tried, column: str) -> str:
    found = tried.measured.get(column)
    if found is None:
        return "over the budget" if tried.over_budget else "not measured"
    if found.value is None:
        return f"not measured ({found.reason})"
    if column == "bytes":
        return f"{int(found.value or 0):,}"
    if column == "bits_per_weight":
        return f"{float(found.value or 0):.3f}"
    if column in ("kl_divergence", "perplexity_ratio"):
        return f"{float(found.value or 0):.4f} ± {found.standard_error or 0:.4f}"
    return number(found.value, found.unit)


def pareto(tried: list[Tried]) -> list[Tried]:
    """Those that no other one beats in both bytes and KL divergence."""
    measured = [t for t in tried if t.is_open]
    return [
        t
        for t in measured
        if not any(
            other is not t
            and other.value("bytes") <= t.value("bytes")
            and other.value("kl_divergence") < t.value("kl_divergence")
            for other in measured
        )
    ]


def render(tuning: Tuning, style: str = "github") -> str:
    """The table, what could not be made, and the choice."""
    lines = [table(["recipe", *COLUMNS.values()], rows(tuning), style), ""]
    lines.append(f"`*` chosen, `+` not beaten in both bytes and KL divergence. {_how_many(tuning)}")
    first = next((t.measured["kl_divergence"] for t in tuning.tried if t.is_open), None)
    if first:
        lines.append(
            f"Over {first.n:,} tokens; {first.how}. Behind ± stand standard errors, with records as "
            f"the sample. {SPEED}"
        )
    lines += ["", f"Chosen: {tuning.why}.", *_tasks(tuning, style)]
    failed = [t for t in tuning.tried if t.error]
    if failed:
        lines += ["", "Could not be made to work:", ""]
        lines += [f"- {t.recipe.name} ({t.recipe.why}): {t.error}" for t in failed]
    return "\n".join(lines)


def _how_many(tuning: Tuning) -> str:
    known, found = len(load_recipes()), len(tuning.tried)
    return f"{found} of the {known} recipes in recipes.json were tried."


def _tasks(tuning: Tuning, style: str) -> list[str]:
    """The table of those that answered records, each held against the one of lowest divergence."""
    asked = [t for t in tuning.tried if t.tasks]
    if not asked:
        return []
    asked.sort(key=lambda t: t.value("kl_divergence"))
    first, table_rows = asked[0], []
    for t in asked:
        assert t.tasks and first.tasks
        cells = [shown(t.tasks.measured[name]) for name in SHOWN]
        pair = "" if t is first else _pair(t.tasks.against(first.tasks))
        table_rows.append([t.recipe.name, *cells, pair])
    count = len(first.tasks.verdicts) if first.tasks else 0
    head = ["recipe", "valid JSON", "satisfies the schema", "field score"]
    return [
        "",
        f"Answers to {count} records, with 95 % intervals:",
        "",
        table([*head, f"field score less {first.recipe.name}'s"], table_rows, style),
    ]


def _pair(found: Paired) -> str:
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.difference:+.1f} points ({low:+.1f} to {high:+.1f}): {found.word}"


def write(tuning: Tuning) -> list[Path]:
    """Markdown, CSV, JSON and the plot under build/reports/."""
    data = report_file(tuning.domain.name, tuning.rung)
    markdown, sheet, plot = (data.with_suffix(end) for end in (".md", ".csv", ".png"))
    data.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text(render(tuning) + "\n", encoding="utf-8")
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["recipe", *COLUMNS])
        for t in tuning.tried:
            values = [m.value if (m := t.measured.get(c)) else "" for c in COLUMNS]
            writer.writerow([t.recipe.name, *values])
    data.write_text(json.dumps(as_json(tuning), indent=2) + "\n", encoding="utf-8")
    draw(tuning, plot)
    return [markdown, sheet, data, plot]


def put_into(document: Path, tuning: Tuning) -> None:
    """Renew the document's block of this rung; UserError where it has none.

    The block lies between `<!-- tuned: <domain> <rung> -->` and `<!-- end -->`.
    """
    name = f"<!-- tuned: {tuning.domain.name} {tuning.rung} -->"
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    try:
        renewed = marks.put_block(text, name, render(tuning))
    except ValueError as error:
        raise UserError(f"--document: {paths.shown(document)} has {error}") from error
    document.write_text(renewed, encoding="utf-8")


def as_json(tuning: Tuning) -> dict[str, object]:
    """Everything, for other programs."""
    return {
        "domain": tuning.domain.name,
        "rung": tuning.rung,
        "weights": tuning.weights,
        "budget_bytes": tuning.budget,
        "origin": tuning.origin,
        "chosen": tuning.chosen.recipe.name if tuning.chosen else None,
        "why": tuning.why,
        "recipes": {
            t.recipe.name: {
                "why": t.recipe.why,
                "error": t.error or None,
                "build": t.build_key or None,
                "over_budget": t.over_budget,
                "measured": _dumped(t.measured),
                "tasks": _dumped(t.tasks.measured) if t.tasks else None,
            }
            for t in tuning.tried
        },
    }


def _dumped(found: dict[str, Measurement]) -> dict[str, object]:
    return {name: m.model_dump(exclude_none=True) for name, m in found.items()}


def draw(tuning: Tuning, file: Path) -> None:
    """KL divergence over bits per weight, with standard errors; the unbeaten ones are joined."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [t for t in tuning.tried if t.is_open]
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    front = sorted(pareto(measured), key=lambda t: t.value("bits_per_weight"))
    axes.plot(*_points(front), color="0.75", zorder=1)
    for t in measured:
        x, y = t.value("bits_per_weight"), t.value("kl_divergence")
        colour = "C3" if t is tuning.chosen else "C0"
        error = t.measured["kl_divergence"].standard_error
        axes.errorbar(x, y, yerr=error, fmt="o", color=colour, capsize=2)
        axes.annotate(t.recipe.name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="bits per weight",
        ylabel="KL divergence from the 16-bit parent (nats per token)",
        yscale="log",
        title=f"{tuning.domain.name}, {tuning.rung}: the chosen one in red",
    )
    axes.grid(alpha=0.2)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _points(tried: list[Tried]) -> tuple[list[float], list[float]]:
    return (
        [t.value("bits_per_weight") for t in tried],
        [t.value("kl_divergence") for t in tried],
    )
