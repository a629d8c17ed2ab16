"""Quality in bench-all.html: field scores with intervals, the gates, recipes by bytes and KL."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.base.manifest import Measurement
from shared.base.tables import shown
from shared.evaluate.scoring.measurements import better_mode
from shared.webgpu_bench.report.svg import INK, colour, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SYSTEMS = {"base": ("base", 3), "parent": ("16-bit parent", 4), "release": ("4-bit release", 0)}
"""Who answered: in words, and in which of the page's colours."""
FLOOR = "floor.field_score"
CHOSEN, OTHER = 5, 3


@dataclass(frozen=True)
class Recipe:
    """A recipe that `tune` measured: bytes as q4f16, KL divergence from the parent with its error."""

    name: str
    bytes: float
    kl: float
    standard_error: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Quality:
    """What decides a domain's release beside its speed. `check`: that stage's measurements; `gates`:
    name → verdict and reason; `recipes`: rung → what `tune` tried; `missing`: why there is none."""

    domain: str
    check: Mapping[str, Measurement] = field(default_factory=dict)
    gates: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    recipes: Mapping[str, Sequence[Recipe]] = field(default_factory=dict)
    missing: str = ""


def quality_parts(found: Sequence[Quality]) -> dict[str, Any]:
    """What the page's template places: scores, gates, recipes."""
    return {
        "scores": [_score(one) for one in found],
        "gates": _gates([one for one in found if one.gates]),
        "recipes": [
            {"where": f"{one.domain}, {rung}", "svg": _recipe_chart(tried), "names": _named(tried)}
            for one in found
            for rung, tried in one.recipes.items()
            if tried
        ],
    }


def _score(one: Quality) -> dict[str, Any]:
    mode = better_mode(one.check)
    names = {system: f"{system}.{mode}.field_score" for system in SYSTEMS}
    measured = {s: m for s, n in names.items() if (m := one.check.get(n)) and m.value is not None}
    why = one.missing or "no record was answered"
    if not measured:
        return {"domain": one.domain, "missing": why}
    floor = one.check.get(FLOOR)
    known = floor is not None and floor.value is not None
    lines = [(SYSTEMS[s][0], SYSTEMS[s][1], shown(m)) for s, m in measured.items()]
    words = "held to the schema" if mode == "constrained" else "free decoding"
    return {
        "domain": one.domain,
        "missing": "",
        "mode": words,
        "svg": _score_chart(measured, floor if known else None),
        "lines": [*lines, *([("one fixed answer", 9, shown(floor))] if known else [])],
    }


def _score_chart(measured: Mapping[str, Measurement], floor: Measurement | None) -> str:
    """Each system's field score with its 95 % interval, and the fixed answer's as a broken line."""

    upwards = list(measured.items())[::-1]

    def draw(axes: "Axes") -> None:
        for place, (system, found) in enumerate(upwards):
            value, tone = _percent(found.value), colour(SYSTEMS[system][1])
            ends = (_percent(found.low, value), _percent(found.high, value))
            error = [[value - ends[0]], [ends[1] - value]]
            axes.errorbar(
                [value], [place], xerr=error, fmt="o", color=tone, capsize=4, markersize=7
            )
        if floor is not None:
            axes.axvline(_percent(floor.value), color=INK, linestyle="--", linewidth=1)
        axes.set(xlim=(0, 100), xlabel="field score, %", ylim=(-0.6, len(measured) - 0.4))
        axes.set_yticks(range(len(measured)), [SYSTEMS[system][0] for system, _ in upwards])
        axes.grid(axis="x", alpha=0.2)

    return drawn(6, 0.8 + 0.45 * len(measured), draw)


def _percent(value: Any, otherwise: float = 0.0) -> float:
    return 100 * float(value) if value is not None else otherwise


def _gates(found: Sequence[Quality]) -> dict[str, Any]:
    """Gates × domains: the verdicts, each with its reason."""
    names = list(dict.fromkeys(name for one in found for name in one.gates))
    absent = ("not asked", "this domain has no such gate")
    rows = [(name, [one.gates.get(name, absent) for one in found]) for name in names]
    return {"domains": [one.domain for one in found], "rows": rows}


def _named(tried: Sequence[Recipe]) -> str:
    """The points in words, the smallest file first."""
    ordered = sorted(tried, key=lambda recipe: recipe.bytes)
    return "; ".join(
        f"{r.name}{' (chosen)' * r.chosen} {r.bytes:,.0f} B, {r.kl:.3g}" for r in ordered
    )


def _recipe_chart(tried: Sequence[Recipe]) -> str:
    """KL divergence (log scale) over bytes; the chosen recipe in a colour of its own."""

    def draw(axes: "Axes") -> None:
        for recipe in tried:
            tone = colour(CHOSEN if recipe.chosen else OTHER)
            place = (recipe.bytes / 1e6, recipe.kl)
            axes.errorbar(*place, yerr=_error(recipe), fmt="o", color=tone, capsize=3)
            apart = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(recipe.name, place, **apart)  # type: ignore[arg-type]
        axes.margins(x=0.15)
        axes.set(yscale="log", xlabel="MB as q4f16", ylabel="KL divergence, nats per token")
        low, high = (math.log10(end) for end in axes.get_ylim())
        axes.set_ylim(10.0 ** (low - 0.05), 10.0 ** (high + 0.1))
        axes.grid(alpha=0.2)

    return drawn(6, 3.3, draw)


def _error(recipe: Recipe) -> float | None:
    """Left out where it would reach below zero, which a log scale cannot show."""
    error = recipe.standard_error
    return error if error is not None and error < recipe.kl else None
