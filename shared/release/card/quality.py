"""Does it do the work? The check stage's tables, for terminal and card, from its measurements alone.

One table for each mode, with base, 16-bit parent and 4-bit release beside the floor that a fixed
answer reaches; then the same answers pair by pair.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeGuard

from shared.base.formatting import interval
from shared.base.manifest import Measurement
from shared.base.tables import shown, table
from shared.evaluate.scoring.measurements import COMPARISONS, FORCED, SPEED
from shared.evaluate.scoring.statistics import NO_DIFFERENCE
from shared.evaluate.scoring.summary import DANGEROUS, stands_twice
from shared.evaluate.systems import MODES, NAMES, Mode

Measured = Mapping[str, Measurement]

WORDS = {
    "json_validity": "valid JSON",
    "schema_compliance": "satisfies schema.json",
    "field_score": "field score",
    "field_score_nonnull": "field score, gold not null",
    DANGEROUS: "dangerous answers",
    "refusal": "refusals",
    "empty": "empty",
    "degenerate": "garbage",
    "fenced": "in a ```json fence",
    "characters": "length",
    SPEED: "decode, one prompt at a time, on the CPU",
}
FIRST = ("json_validity", "schema_compliance", "field_score", "field_score_nonnull", DANGEROUS)
MODE_WORDS = {"free": "Free decoding", "constrained": "Held to the schema"}
FLOOR = "one fixed answer"
ABOVE = "above"
"""In place of a figure that the first screen has."""


def quality_tables(
    found: Measured, facts: Mapping[str, Any], style: str = "github", above: Collection[str] = ()
) -> str:
    """All tables, each with a line above it; empty where nothing was answered.

    `above`: names of what the reader has seen already; such a cell says so, such a pair is left out.
    """
    parts = []
    label = facts.get("base_label", "base")
    for mode in facts.get("modes", MODES):
        if rows := _rows(found, mode, above):
            heads: tuple[str, ...] = ("", FLOOR, label, "16-bit parent", "4-bit release")
            parts.append(f"{MODE_WORDS[mode]}:\n\n{table(heads, rows, style)}")
    if pairs := _pair_rows(found, above):
        heads = ("on the same records", "metric", "difference", "in a word")
        parts.append(f"Pair by pair:\n\n{table(heads, pairs, style)}")
        parts.append(_not_told_apart(found))
    return "\n\n".join(parts)


def first_table(found: Measured, facts: Mapping[str, Any], mode: Mode) -> str:
    """Base and release in one mode, beside what one fixed answer scores; empty without an answer."""
    rows = [
        (metric_words(name), _floor(found, name), *(_cell(name, one) for one in cells))
        for name in FIRST
        if any(
            map(measured, cells := [found.get(f"{s}.{mode}.{name}") for s in ("base", "release")])
        )
        and not all(stands_twice(found, f"{s}.{mode}.{name}") for s in ("base", "release"))
    ]
    heads = (MODE_WORDS[mode].lower(), FLOOR, facts.get("base_label", "base"), "this model")
    return table(heads, rows) if rows else ""


def _floor(found: Measured, metric: str) -> str:
    return _cell(metric, found.get(f"floor.{metric}")) if _scored(metric) else ""


def quality_note(facts: Mapping[str, Any]) -> str:
    """On what it was measured, which mode to choose, and every exception."""
    if not facts.get("records"):
        return "Not measured: the model could not be loaded."
    cut = f": {facts['cut']}" if "cut" in facts else ""
    computed = facts.get("computed", {})
    others = sorted({how for name, how in computed.items() if name != "release"})
    lines = [
        f"{facts['records']} records ({facts['origin']}{cut}), greedy decoding; the release in "
        f"onnxruntime-genai on the CPU, the others in PyTorch{', in ' * bool(others)}"
        f"{' and '.join(others)}. In brackets: 95 % intervals. One fixed answer: "
        "what the best constant answer would score on these records.",
    ]
    if "advice" in facts:
        lines.append(f"**Which mode?** {facts['advice']}")
    if facts.get("forcing"):
        lines.append(f"**Forced text.** {facts['forcing']}")
    broken = [f"{e['system']} {e['id']}: {e['cause']}" for e in facts.get("exceptions", [])]
    held = facts.get("constrained_answers", 0)
    if broken:
        listed = "; ".join(broken)
        lines.append(f"Held to the schema, these answers broke it all the same: {listed}.")
    elif held:
        lines.append(
            f"Held to the schema, every answer of every system satisfied it ({held} answers)."
        )
    elif "constrained" in facts.get("modes", ()):
        lines.append("No answer was given held to the schema.")
    return "\n\n".join(lines)


def metric_words(name: str) -> str:
    """`field.clause_type.nonnull` → `clause_type`, gold not null."""
    if not name.startswith("field."):
        return WORDS.get(name, name)
    field, _, end = name.removeprefix("field.").partition(".")
    if not end:
        return f"`{field}`"
    return f"`{field}`, gold not null" if end == "nonnull" else f"`{field}`, {end}"


def _rows(found: Measured, mode: str, above: Collection[str]) -> list[tuple[str, ...]]:
    """A row a metric that any system has, in a fixed order: rates, scores, fields, the rest."""
    if not any(measured(found.get(f"{name}.{mode}.json_validity")) for name in NAMES):
        return []
    rows = []
    for metric in _metrics(found, f"release.{mode}."):
        names = [f"floor.{metric}", *(f"{name}.{mode}.{metric}" for name in NAMES)]
        cells = [found.get(name) for name in names]
        if not _scored(metric):
            cells[0] = None
        own = [name for name in names[1:] if measured(found.get(name))]
        twice = bool(own) and all(stands_twice(found, name) for name in own)
        if any(map(measured, cells)) and not twice:
            shown = zip(names, cells, strict=True)
            texts = (ABOVE if c and n in above else _cell(metric, c) for n, c in shown)
            rows.append((metric_words(metric), *texts))
    return rows


def _metrics(found: Measured, prefix: str) -> list[str]:
    names = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
    fields = [name for name in names if name.startswith("field.")]
    last = [name for name in WORDS if name in names and name not in FIRST]
    return [*(name for name in FIRST if name in names), *fields, *last]


def _scored(metric: str) -> bool:
    return metric.startswith("field")


def _pair_rows(found: Measured, above: Collection[str]) -> list[tuple[str, ...]]:
    """The field score of every pair, and whatever else a difference was shown in."""
    return [
        (comparison_words(comparison), metric_words(metric), shown(pair), pair.how)
        for comparison, metric, pair in _pairs(found)
        if (metric == "field_score" or pair.how != NO_DIFFERENCE)
        and f"{comparison}.{metric}" not in above
    ]


def _pairs(found: Measured) -> Iterator[tuple[str, str, Measurement]]:
    """Comparison, metric and difference of all that were measured."""
    for comparison in (*COMPARISONS, FORCED):
        for metric in _metrics(found, f"{comparison}."):
            pair = found[f"{comparison}.{metric}"]
            if measured(pair) and not stands_twice(found, f"{comparison}.{metric}"):
                yield comparison, metric, pair


def _not_told_apart(found: Measured) -> str:
    """How much of what was compared shows no difference, so that what is listed is not all."""
    words = [pair.how for _, _, pair in _pairs(found)]
    return (
        f"{len(words)} differences were looked at; in {words.count(NO_DIFFERENCE)} none is shown at "
        "these record counts, and only those in the field score are listed."
    )


def comparison_words(name: str) -> str:
    """`release_vs_parent.free` → release − parent, free."""
    pair, _, mode = name.partition(".")
    if pair == "release_constrained_vs_free":
        return "release, held to the schema − free"
    if name == FORCED:
        return "release, forced text − token by token"
    return f"{pair.replace('_vs_', ' − ')}, {mode}"


def measured(measurement: Measurement | None) -> TypeGuard[Measurement]:
    """Whether there is a value."""
    return measurement is not None and measurement.value is not None


def _cell(metric: str, measurement: Measurement | None) -> str:
    if metric == DANGEROUS and measurement is not None and measured(measurement):
        return dangerous_words(measurement)
    return shown(measurement) if measurement is not None else ""


def dangerous_words(measurement: Measurement) -> str:
    """`3 of 120 (0.9–7.1 %)`."""
    n = measurement.n or 0
    ends = interval(measurement.low or 0.0, measurement.high or 0.0, measurement.unit)
    return f"{round(float(measurement.value or 0) * n)} of {n} ({ends})"
