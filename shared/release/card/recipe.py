"""The card on the recipe: its passes, and what `./inv tune` measured of others on these weights."""

import json
from pathlib import Path
from typing import Any

from shared.base import paths, tables
from shared.base.manifest import FILE_NAME, Manifest, Measurement
from shared.base.parsing import read_json

COLUMNS = {
    "bits_per_weight": "bits per weight",
    "kl_divergence": "KL divergence",
    "answer_agreement": "same likeliest token within answers",
    "perplexity_ratio": "perplexity ratio",
    "cpu_decode_tokens_per_second": "decode, CPU",
}
KEPT = (
    ". This release was built by the recipe of the domain's olive.json all the same; docs/recipes.md "
    "tells why that one is the default"
)
SHOWN_SETTINGS = ("bits", "group_size", "sym", "make_up", "overrides", "int4_block_size")


def recipe_words(build: Manifest) -> str:
    """The passes that made the build, with their settings, and what calibrated it."""
    if "olive" not in build.settings:
        return f"{build.settings['exporter']}, blocks of {build.settings['block_size']}"
    words = []
    for one in build.settings["olive"]["passes"].values():
        found = one.get("config", one)
        shown = [f"{key} {json.dumps(found[key])}" for key in SHOWN_SETTINGS if key in found]
        words.append(f"{one['type']} ({', '.join(shown)})" if shown else one["type"])
    return " → ".join(words) + _calibration_words(build)


def _calibration_words(build: Manifest) -> str:
    folder = paths.build() / "calibration" / build.inputs.get("calibration", "none")
    if not (folder / FILE_NAME).is_file():
        return ""
    found = Manifest.read(folder).measurements
    tokens, records = (int(found[name].value or 0) for name in ("tokens", "records"))
    return f"; calibrated on {tokens:,} tokens of {records} records, none of them measured"


def recipe_facts(domain: str, rung: str, build: Manifest) -> dict[str, Any]:
    """For release.json: `words`, and `others`, what `./inv tune` measured on these very weights."""
    return {"words": recipe_words(build), "others": measured_beside(domain, rung, build)}


def measured_beside(domain: str, rung: str, build: Manifest) -> dict[str, Any] | None:
    """The rows of `./inv tune`'s report, this build's marked; None where it tuned other weights."""
    file = report_file(domain, rung)
    report = read_json(file) if file.is_file() else {}
    if report.get("weights") != build.inputs["weights"]:
        return None
    rows = [
        [f"{name}, this release" if one["build"] == build.key else name, *_cells(one["measured"])]
        for name, one in sorted(report["recipes"].items(), key=_loss)
        if "kl_divergence" in one["measured"]
    ]
    chosen = report["recipes"].get(report["chosen"], {}).get("build")
    return {"rows": rows, "why": report["why"] + ("" if chosen == build.key else KEPT)}


def comparison(domain: str, others: dict[str, Any] | None) -> str:
    """The table of the recipes measured on the same weights; else a sentence."""
    if others is None:
        return (
            f"How other recipes do on these weights: not measured; `./inv tune --domain {domain}` "
            "tells, and docs/recipes.md why this one is the default."
        )
    head = ["recipe", *COLUMNS.values()]
    why = tables.words(others["why"])
    rows = tables.table(head, others["rows"])
    return f"Other recipes on the same weights:\n\n{rows}\n\nThe choice of `./inv tune`: {why}."


def report_file(domain: str, rung: str) -> Path:
    """Where `./inv tune` writes its figures."""
    return paths.build() / "reports" / f"tune-{domain}-{rung}.json"


def _loss(item: tuple[str, dict[str, Any]]) -> float:
    return float(item[1]["measured"].get("kl_divergence", {}).get("value", 0))


def _cells(measured: dict[str, Any]) -> list[str]:
    return [
        tables.shown(Measurement.model_validate(measured[name]) if name in measured else None)
        for name in COLUMNS
    ]
