"""The outcome of a tuning as a table, a plot and files under build/reports/."""

import csv
import io
import json
import math
from pathlib import Path

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_bytes, write_text
from shared.base.formatting import number
from shared.base.manifest import Measurement
from shared.base.tables import shown, table
from shared.base.text import put_block
from shared.evaluate.compare import Checked, compare_checks
from shared.pipeline.stages import CPU_DECODE, WEBGPU_DECODE
from shared.pipeline.tune.tune import Tried, Tuning, load_recipes
from shared.release.card.recipe import report_file

COLUMNS = {
    "q4f16_bytes": "bytes",
    "bits_per_weight": "bits per weight",
    "kl_divergence": "KL divergence",
    "agreement": "agreement",
    "answer_agreement": "agreement within answers",
    "perplexity_ratio": "perplexity ratio",
    "build.wall_seconds": "build",
    "build.peak_rss_bytes": "peak memory",
    CPU_DECODE: "CPU decode",
    WEBGPU_DECODE: "WebGPU decode",
}
SCORES = ("json_validity", "schema_compliance", "field_score")
SPEED = "Only the CPU's decode speed decided; WebGPU's is shown where there is a hardware adapter."


def rows(tuning: Tuning) -> list[list[str]]:
    """One row a recipe that was built, the best KL divergence first; `*` marks the chosen one and
    `+` those that no other beats in both bytes and KL divergence."""
    built = [t for t in tuning.tried if t.measured]
    built.sort(key=_loss)
    front = pareto(built)
    names = [t.recipe.name + "*" * (t is tuning.chosen) + "+" * (t in front) for t in built]
    return [[n, *(_cell(t, c) for c in COLUMNS)] for n, t in zip(names, built, strict=True)]


def _loss(tried: Tried) -> float:
    return tried.loss if tried.is_open else math.inf


def _cell(tried: Tried, column: str) -> str:
    found = tried.measured.get(column)
    if found is None:
        return "over the budget" if tried.over_budget else "not measured"
    if found.value is None:
        return f"not measured ({found.reason})"
    if column == "q4f16_bytes":
        return f"{int(found.value or 0):,}"
    if column == "bits_per_weight":
        return f"{float(found.value or 0):.3f}"
    if column in ("kl_divergence", "perplexity_ratio"):
        error = found.standard_error
        return f"{float(found.value or 0):.4f}" + (f" ± {error:.4f}" if error is not None else "")
    return number(found.value, found.unit)


def pareto(tried: list[Tried]) -> list[Tried]:
    """Those that no other one beats in both bytes and KL divergence."""
    points = {(t.value("q4f16_bytes"), t.loss) for t in tried if t.is_open}
    return [
        t
        for t in tried
        if t.is_open
        and not any(size <= t.value("q4f16_bytes") and loss < t.loss for size, loss in points)
    ]


def render(tuning: Tuning, style: str = "github") -> str:
    """The table, what could not be made, and the choice."""
    lines = [table(["recipe", *COLUMNS.values()], rows(tuning), style), ""]
    lines.append(
        "`*` chosen, `+` not beaten in both bytes and KL divergence. "
        f"{len(tuning.tried)} of the {len(load_recipes())} recipes in recipes.json were tried."
    )
    first = next((t.measured["kl_divergence"] for t in tuning.tried if t.is_open), None)
    if first:
        lines.append(
            f"Over {first.n:,} tokens; {first.how}. Behind ± stand standard errors, with records as "
            f"the sample. {SPEED}"
        )
    lines += ["", f"Chosen: {tuning.why}.", *_answers(tuning, style)]
    failed = [f"- {t.recipe.name} ({t.recipe.why}): {t.error}" for t in tuning.tried if t.error]
    if failed:
        lines += ["", "Could not be made to work:", "", *failed]
    return "\n".join(lines)


def _answers(tuning: Tuning, style: str) -> list[str]:
    """The table of those that answered records, each compared with the one of lowest divergence."""
    asked = [(t, t.checked) for t in sorted(tuning.tried, key=_loss) if t.checked]
    if not asked:
        return []
    (best, first), found_rows = asked[0], []
    for t, checked in asked:
        words = "" if t is best else _difference(checked, first)
        found_rows.append([t.recipe.name, *map(shown, _scores(t).values()), words])
    head = ["recipe", "valid JSON", "satisfies the schema", "field score"]
    return [
        "",
        f"Answers to {len(first.records)} records, with 95 % intervals:",
        "",
        table([*head, f"field score less {best.recipe.name}'s"], found_rows, style),
    ]


def _difference(checked: Checked, first: Checked) -> str:
    try:
        found = compare_checks(checked, first)[1].get("free", {})
    except UserError as error:  # onnxruntime-genai does not load one of the two
        return str(error)
    pair = found.get(f"difference.{SCORES[-1]}")
    return f"{shown(pair)}: {pair.how}" if pair and pair.value is not None else ""


def _scores(tried: Tried) -> dict[str, Measurement]:
    found = tried.checked.manifest.measurements if tried.checked else {}
    return {name: found[f"release.free.{name}"] for name in SCORES if found}


def write(tuning: Tuning) -> list[Path]:
    """Markdown, CSV, JSON and the plot under build/reports/."""
    data = report_file(tuning.domain.name, tuning.rung)
    markdown, sheet, plot = (data.with_suffix(end) for end in (".md", ".csv", ".png"))
    write_text(markdown, render(tuning) + "\n")
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(["recipe", *COLUMNS])
    for t in tuning.tried:
        values = [m.value if (m := t.measured.get(c)) else "" for c in COLUMNS]
        writer.writerow([t.recipe.name, *values])
    write_bytes(sheet, lines.getvalue().encode())
    write_text(data, json.dumps(as_json(tuning), indent=2) + "\n")
    draw(tuning, plot)
    return [markdown, sheet, data, plot]


def need_block(document: Path, domain: str, rung: str) -> None:
    """UserError where the document has no block of this rung: before anything is built for it.

    The block lies between `<!-- tuned: <domain> <rung> -->` and `<!-- end -->`.
    """
    _with_block(document, domain, rung, "")


def put_into(document: Path, tuning: Tuning) -> None:
    """Renew the document's block of this rung; UserError where it has none."""
    text = _with_block(document, tuning.domain.name, tuning.rung, render(tuning))
    write_text(document, text)


def _with_block(document: Path, domain: str, rung: str, block: str) -> str:
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    try:
        return put_block(text, f"<!-- tuned: {domain} {rung} -->", block)
    except ValueError as error:
        raise UserError(f"--document: {paths.shown(document)} has {error}") from error


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
                "tasks": _dumped(_scores(t)) or None,
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
    line = [(t.value("bits_per_weight"), t.loss) for t in front]
    axes.plot(*zip(*line, strict=True), color="0.75", zorder=1)
    for t in measured:
        x, y = t.value("bits_per_weight"), t.loss
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
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_bytes(file, picture.getvalue())
    pyplot.close(figure)
