"""The card's front matter: built and typed by huggingface_hub, then held to what the Hub asks.

The Hub itself validates a card only over the network (`ModelCard.validate`). What it rejects is
checked here too, so that a bad licence or base model is a sentence before anything is uploaded.

`base_model` is what a model was trained from. The Hub calls a base in other numbers "quantized", and
"adapter" what has to be loaded onto its base. A fine-tuned model that comes whole is a
"finetune" of it, quantised or not (hf.co/docs/hub/model-cards#specifying-a-base-model).
"""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from shared.base.errors import UserError
from shared.release.card.quality import MODE_WORDS, WORDS
from shared.release.model import Release

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
"""The form of the Hub's licence identifiers (hf.co/docs/hub/repositories-licenses)."""
INDEXED = ("json_validity", "schema_compliance", "field_score", "field_score_nonnull")
"""What of the release's figures goes into the model-index."""


def front_matter(release: Release) -> str:
    """The YAML between the dashes; UserError naming fallback.toml's rung where the Hub would refuse."""
    named = {"license_name": release.licence_name, "license_link": release.licence_link}
    extra: dict[str, Any] = {key: value for key, value in named.items() if value}
    if release.example:
        extra["widget"] = [{"messages": [{"role": "user", "content": release.example}]}]
    datasets = _datasets(release)
    if datasets:
        extra["datasets"] = datasets
    data = ModelCardData(
        language=release.facts.get("card", {}).get("language"),
        license=release.licence,
        library_name="transformers.js",
        pipeline_tag="text-generation",
        tags=["onnx", "webgpu", "structured-output", "docintel", release.domain],
        base_model=release.base,
        base_model_relation="quantized" if release.prompt_only else "finetune",
        model_name=release.repository.split("/")[-1],
        eval_results=_eval_results(release),
        **extra,
    )
    problem = next(iter(problems(data.to_dict())), None)
    if problem:
        where = f"domains/{release.domain}/fallback.toml: rung {release.rung}"
        raise UserError(f"{where}: {problem}")
    return str(data.to_yaml(line_break="\n")).strip()


def problems(data: dict[str, Any]) -> list[str]:
    """What the Hub, or a reader, would miss in this front matter; one sentence each."""
    found = [f"{key}: not stated" for key in ("license", "base_model") if not data.get(key)]
    licence, base = data.get("license") or "", data.get("base_model")
    if licence and not (isinstance(licence, str) and LICENCE.fullmatch(licence)):
        found.append(f"licence: {licence!r} is no licence identifier of the Hub")
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        found.append("licence: 'other' needs licence_name and licence_link")
    link = str(data.get("license_link") or "https://")
    if not link.startswith("https://") or re.search(r"\s", link):
        found.append(f"licence_link: {link!r} is no https address")
    if base and not _is_repo(base):
        found.append(f"base: {base!r} is no model of the Hub; write org/name")
    return found


def _datasets(release: Release) -> list[str]:
    """The Hub's data sets that the domain names, and those that the weights' own card does."""
    told = release.facts.get("source", {}).get("training", {}).get("data sets", "")
    named = [*release.facts.get("card", {}).get("datasets", []), *str(told).split(", ")]
    return [name for name in dict.fromkeys(named) if _is_repo(name)]


def _is_repo(name: Any) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return str(name).count("/") == 1


def _eval_results(release: Release) -> list[EvalResult]:
    """The model-index: this model's own measured shares on the domain's records, mode by mode."""
    facts = release.facts.get("check", {})
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"docintel-{release.domain}",
            dataset_name=f"DocIntel {release.domain}: {facts.get('origin', 'records')}",
            metric_type=f"{mode}_{name}",
            metric_name=f"{WORDS[name]} ({mode_words.lower()})",
            metric_value=round(float(measurement.value), 4),
        )
        for mode, mode_words in MODE_WORDS.items()
        for name in INDEXED
        if (measurement := release.measurements.get(f"check.release.{mode}.{name}")) is not None
        and isinstance(measurement.value, int | float)
    ]
