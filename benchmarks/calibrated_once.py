"""Build q4f16 as a release is built, with the recipe of domains/: MODEL OUT [without-calibration].

The recipe is the first domain's olive.json with the overrides of the rung for this architecture; the
calibration text is the domain's, cut by the embedded model's tokenizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.full_size import calibration_texts
from shared.base.parsing import read_json
from shared.domain.domain import domain_names, load_domain
from shared.domain.olive_json import with_overrides
from shared.olive.calibration_text import bound, wants_calibration
from shared.olive.workflow import run_workflow

WITHOUT = "without-calibration"


def recipe(model_type: str) -> dict[str, Any]:
    """The default workflow for a fine-tuned model of this type."""
    domain = load_domain(domain_names()[0])
    rung = next(r for r in domain.chain.rung if r.model_type == model_type)
    return with_overrides(domain.olive, rung.olive, f"rung {rung.name}")


def without_calibration(workflow: dict[str, Any]) -> dict[str, Any]:
    """The same format and bytes, each weight rounded on its own."""
    for settings in workflow["passes"].values():
        if settings.pop("calibration", None):
            settings["feedback"] = False
    return workflow


def main(model: str, out: str, *words: str) -> None:
    settings = read_json(Path(model) / "config.json")
    workflow = recipe(settings["model_type"])
    if WITHOUT in words:
        workflow = without_calibration(workflow)
    if wants_calibration(workflow):
        tokens = Path(out) / "tokens.json"
        texts = calibration_texts(domain_names()[0], settings["vocab_size"])
        tokens.write_text(json.dumps(texts))
        workflow = bound(workflow, tokens)
    run_workflow(workflow, Path(model), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
