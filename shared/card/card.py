"""The model card: front matter checked by huggingface_hub, body from the domain's card.md.

card.md is a Jinja2 template rendered in a sandbox; an unknown name in it is an error. The template
holds words and places, never numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from shared import paths
from shared.card import tables
from shared.card.fidelity import fidelity_section
from shared.card.recipe import comparison, recipe_words
from shared.card.usage import usage_js, usage_python
from shared.chain import Walk
from shared.errors import UserError
from shared.hub.names import repository_name

if TYPE_CHECKING:
    from shared.release import Release

QUALITY = {
    "json_validity": "valid JSON",
    "fenced": "of it in a ```json fence",
    "schema_compliance": "satisfies schema.json",
    "field_accuracy": "fields that match exactly",
    "degenerate": "garbage",
}

BROWSER = {
    "bench.loads": "loads on WebGPU",
    "bench.greedy_agreement": "greedy tokens as on the CPU",
    "bench.load_seconds": "load, cold",
    "bench.ttft_seconds": "time to first token (TTFT)",
    "bench.prefill_tokens_per_second": "prefill",
    "bench.decode_tokens_per_second": "decode",
    "bench.peak_gpu_bytes": "requested GPU buffer bytes, peak",
    "bench.gpu_errors": "GPU errors and device losses",
    "bench.nodes_on_cpu": "graph nodes left on the CPU",
    "check.decode_tokens_per_second": "for comparison: decode in onnxruntime-genai",
}


def render_card(walked: Walk, release: Release) -> str:
    """README.md of the release; UserError naming card.md where the template is at fault."""
    template = walked.domain.folder / "card.md"
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        body = environment.from_string(template.read_text(encoding="utf-8")).render(
            _context(walked, release)
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f"{paths.shown(template)}:{line}" if line else paths.shown(template)
        raise UserError(f"{place}: {error.message or type(error).__name__}") from None
    return f"---\n{_front_matter(walked, release)}\n---\n\n{body}"


def _context(walked: Walk, release: Release) -> dict[str, Any]:
    name = repository_name(walked.domain, release.base)
    recipes = tables.recipes_table(release.attempts)
    return {
        "domain": release.domain,
        "title": name.split("/")[-1],
        "summary": _summary(release),
        "notices": _notices(walked, release),
        "usage_js": usage_js(name),
        "usage_python": usage_python(name.split("/")[-1]),
        "prompt": walked.domain.prompt,
        "check_table": _check_table(release),
        "check_note": _check_note(release),
        "fidelity": fidelity_section(release),
        "bench_table": tables.measurements_table(release.measurements, BROWSER),
        "bench_note": _bench_note(release),
        "files_table": _files_table(walked),
        "attempts_table": "\n\n".join(
            filter(None, (tables.attempts_table(release.attempts), recipes))
        ),
        "gates_table": tables.gates_table(release.gates),
        "provenance": _provenance(walked, release),
    }


def _summary(release: Release) -> str:
    kind = "The base model with a prompt" if release.prompt_only else "A fine-tuned model"
    return f"{kind} for {release.domain} documents, from {release.base}, quantised to 4 bits."


def _notices(walked: Walk, release: Release) -> str:
    notes = []
    if release.not_publishable_because:
        notes.append(f"**Not to be published**: {release.not_publishable_because}")
    if release.facts.get("bench", {}).get("software_adapter"):
        notes.append(
            "**No GPU was at hand**: the browser ran on a software adapter. Loading, placement and "
            "agreement with the CPU are measured; speed on a GPU is not."
        )
    if walked.rung and not walked.rung.commercial_use:
        notes.append("**Non-commercial**: the base model's licence forbids commercial use.")
    return "\n\n".join(f"> {note}" for note in notes)


def _check_table(release: Release) -> str:
    rows = []
    for name, words in QUALITY.items():
        ours = tables.shown(release.measurements.get(f"check.{name}"))
        base = tables.shown(release.measurements.get(f"check.base_{name}"))
        rows.append((words, ours, base))
    return tables.table(("share of answers", "this model, with the prompt", "base, without"), rows)


def _check_note(release: Release) -> str:
    facts = release.facts.get("check", {})
    if "origin" not in facts:
        return "Not measured: the model could not be loaded."
    return (
        f"Measured on {facts['records']} records ({facts['origin']}), greedy decoding, "
        "onnxruntime-genai on the CPU, on the 4-bit files of this repository."
    )


def _bench_note(release: Release) -> str:
    facts = release.facts.get("bench", {})
    if "browser" not in facts:
        return "No browser was at hand."
    where = release.measurements["bench.loads"].where
    return f"{where}; {facts['browser']}. Why {facts['dtype']}: {facts['dtype_reason']}."


def _files_table(walked: Walk) -> str:
    outputs = walked.done["package"].manifest.outputs
    rows = [(name, f"{r.bytes:,}", f"`{r.sha256[:16]}…`") for name, r in sorted(outputs.items())]
    return tables.table(("file", "bytes", "SHA-256"), rows)


def _provenance(walked: Walk, release: Release) -> str:
    build = walked.done["build"].manifest
    tools = ", ".join(f"{name} {version}" for name, version in sorted(release.tools.items()))
    rows = [
        ("path taken", f"{release.rung}: {release.why}"),
        ("weights", f"SHA-256 of all `{build.inputs['weights'][:16]}…`"),
        ("parameters", tables.shown(release.measurements.get("source.parameters"))),
        ("recipe", recipe_words(build)),
        ("build", f"{build.wall_seconds:.1f} s, peak memory {build.peak_rss_bytes / 1e9:.2f} GB"),
        ("tools", tools),
        ("training details", "not provided"),
    ]
    other = comparison(release.domain, release.rung, build)
    return f"{tables.table(('what', 'which'), rows)}\n\n{other}"


def _front_matter(walked: Walk, release: Release) -> str:
    rung = walked.rung
    assert rung is not None
    named = {"license_name": rung.licence_name, "license_link": rung.licence_link}
    extra: dict[str, Any] = {key: value for key, value in named.items() if value}
    data = ModelCardData(
        language="en",
        license=rung.licence,
        library_name="transformers.js",
        pipeline_tag="text-generation",
        tags=["onnx", "webgpu", "docintel", release.domain],
        base_model=rung.base,
        base_model_relation="quantized",
        model_name=repository_name(walked.domain, rung.base).split("/")[-1],
        eval_results=_eval_results(release),
        **extra,
    )
    return str(data.to_yaml(line_break="\n")).strip()


def _eval_results(release: Release) -> list[EvalResult]:
    """The model-index: this model's own measured shares on the domain's records."""
    origin = release.facts.get("check", {}).get("origin", "records")
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"docintel-{release.domain}",
            dataset_name=f"DocIntel {release.domain}: {origin}",
            metric_type=name,
            metric_name=words,
            metric_value=round(float(measurement.value), 4),
        )
        for name, words in QUALITY.items()
        if (measurement := release.measurements.get(f"check.{name}")) is not None
        and isinstance(measurement.value, int | float)
    ]
