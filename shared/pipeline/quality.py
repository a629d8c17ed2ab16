"""What bench-all.html shows of each domain's quality: from its release, and what `tune` wrote."""

import json
from pathlib import Path
from typing import Any

from shared.base.errors import UserError
from shared.release.card.recipe import report_file
from shared.release.card.verdict import of_check
from shared.release.model import own_release
from shared.webgpu_bench.report.quality import Quality, Recipe


def quality_of(domain: str) -> Quality:
    """The present release's scores and gates, and every tuned rung's recipes."""
    tuned = sorted(report_file(domain, "*").parent.glob(report_file(domain, "*").name))
    own = [told for told in map(_report, tuned) if told.get("domain") == domain]  # not legal-de's
    recipes = {told["rung"]: tried for told in own if (tried := _tried(told))}
    try:
        release = own_release(domain)
    except UserError as error:
        return Quality(domain, recipes=recipes, missing=str(error))
    gates = {gate.name: (str(gate.outcome), gate.reason) for gate in release.gates}
    return Quality(domain, of_check(release), gates, recipes)


def _report(path: Path) -> dict[str, Any]:
    """What `tune` wrote; nothing of one that was cut short or is of another version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return (
        found if isinstance(found, dict) and {"rung", "recipes", "chosen"} <= found.keys() else {}
    )


def _tried(report: dict[str, Any]) -> list[Recipe]:
    """The recipes of one report of `tune` that were measured."""
    found = {name: told["measured"] for name, told in report["recipes"].items()}
    return [
        Recipe(
            name,
            size,
            kl,
            measured["kl_divergence"].get("standard_error"),
            name == report["chosen"],
        )
        for name, measured in found.items()
        if (size := _value(measured, "q4f16_bytes")) and (kl := _value(measured, "kl_divergence"))
    ]


def _value(measured: dict[str, Any], name: str) -> float | None:
    value = measured.get(name, {}).get("value")
    return float(value) if value is not None else None
