"""The card's section on what quantisation changed: the release beside its 16-bit parent."""

import math
from collections.abc import Mapping
from typing import Any

from shared.base import tables
from shared.base.formatting import number
from shared.base.manifest import Measurement
from shared.release.model import Release

ROWS = {
    "kl_divergence": "KL divergence from the 16-bit model, mean",
    "kl_divergence_p99": "the same, 99th percentile",
    "agreement": "same likeliest token",
    "input_kl_divergence": "KL divergence within the inputs, mean",
    "answer_kl_divergence": "KL divergence within the right answers, mean",
    "answer_agreement": "same likeliest token within the right answers",
    "parent_perplexity": "perplexity of the 16-bit model",
    "perplexity": "perplexity of this model",
    "perplexity_ratio": "this model's perplexity over the 16-bit model's",
    "input_perplexity_ratio": "the same within the inputs",
    "answer_perplexity_ratio": "the same within the right answers",
}


def fidelity_section(release: Release) -> str:
    """Table and note; one sentence where it was not measured."""
    facts = release.facts.get("fidelity", {})
    found = {name: release.measurements.get(f"fidelity.{name}") for name in ROWS}
    if "tokens" not in facts or not any(found.values()):
        return "Not measured."
    safe = facts | {"origin": tables.words(facts["origin"])}
    return f"{fidelity_table(found)}\n\n{fidelity_note(safe)}"


def fidelity_table(found: Mapping[str, Measurement | None], style: str = "github") -> str:
    """Every figure with its standard error and over how many tokens it goes."""
    rows = [
        (words, _figure(found.get(name)), str(m.n) if m and m.n else "")
        for name, words in ROWS.items()
        for m in [found.get(name)]
    ]
    return tables.table(("figure", "value", "tokens"), rows, style)


def _figure(measurement: Measurement | None) -> str:
    if measurement is None or measurement.value is None or measurement.standard_error is None:
        return tables.shown(measurement)
    value, error = float(measurement.value), measurement.standard_error
    if measurement.unit == "share":
        return f"{100 * value:.1f} ± {100 * error:.1f} %"
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3
    return f"{value:.{digits}f} ± {error:.{digits}f} {measurement.unit}".rstrip()


def fidelity_note(facts: Mapping[str, Any]) -> str:
    """What was read, by whom, and what the figures leave open."""
    hidden = number(float(facts["hidden_by_the_cut_at_most"]), "nats/token")
    return (
        f"Both models read the same {facts['tokens']:,} tokens of {facts['records']} records "
        f"({facts['origin']}), and each predicts every next token; q4f16 on the CPU. Behind ± stand "
        "standard errors, with records as the sample. The KL divergence is a lower value: what is "
        f"left out of the 16-bit model's distributions could add {hidden} at most."
    )
