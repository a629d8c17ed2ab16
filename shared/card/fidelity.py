"""The card's section on what quantisation changed: the release beside its 16-bit parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.card import tables
from shared.units import number

if TYPE_CHECKING:
    from shared.release import Release

ROWS = {
    "kl_divergence": "KL divergence from the 16-bit model, mean",
    "kl_divergence_p99": "the same, 99th percentile",
    "agreement": "same likeliest token",
    "answer_kl_divergence": "KL divergence within the right answers, mean",
    "answer_agreement": "same likeliest token within the right answers",
    "parent_perplexity": "perplexity of the 16-bit model",
    "perplexity": "perplexity of this model",
    "perplexity_ratio": "this model's perplexity over the 16-bit model's",
}


def fidelity_section(release: Release) -> str:
    """Table and note; one sentence where it was not measured."""
    facts = release.facts.get("fidelity", {})
    found = {name: release.measurements.get(f"fidelity.{name}") for name in ROWS}
    if "tokens" not in facts or not any(found.values()):
        return "Not measured."
    rows = [
        (words, tables.shown(m), f"{m.n:,}" if m and m.n else "")
        for name, words in ROWS.items()
        for m in [found[name]]
    ]
    hidden = number(float(facts["hidden_by_the_cut_at_most"]), "nats/token")
    note = (
        f"Both models read the same {facts['tokens']:,} tokens of {facts['records']} records "
        f"({facts['origin']}), and each predicts every next token; q4f16 on the CPU. Behind ± stand "
        "standard errors, with records as the sample. The KL divergence is a lower value: what is "
        f"left out of the 16-bit model's distributions could add {hidden} at most."
    )
    return f"{tables.table(('figure', 'value', 'tokens'), rows)}\n\n{note}"
