"""The model card: front matter, and the domain's card.md with its places filled in.

The card is a function of release.json and prompt.md, which lie beside it, and of nothing else: so
`./inv verify` makes it again from them and holds every line against the one it finds.
"""

from pathlib import Path
from textwrap import shorten
from typing import Any

from shared.base.hashing import sha256_json
from shared.base.parsing import loads_strictly
from shared.base.tables import fenced, measurements_table, shown, table, words
from shared.evaluate.scoring.measurements import better_mode
from shared.release.card import tables, verdict
from shared.release.card.fidelity import fidelity_section
from shared.release.card.front_matter import front_matter
from shared.release.card.quality import quality_note, quality_tables
from shared.release.card.recipe import comparison
from shared.release.card.sandbox import fill_in
from shared.release.card.usage import usage_install, usage_js, usage_python, usage_verify
from shared.release.gates import unproven
from shared.release.model import Attempt, Release

FOLDS = Path(__file__).with_name("folds.md")
"""What stands below the first screen, in <details>: the same for every domain."""
ADAPTER = "adapter/adapter_model.safetensors"
"""An adapter's weights among a release's source files (shared.source.source)."""
PAGE = ("bench.", "swapped.", "overflow.")
"""How the measurements begin that a browser, or the graph for it, gives."""
SAMPLE_LENGTH = 240
"""Characters of a document that the card shows beside its answer."""
BROWSER = {
    "bench.loads": "loads on WebGPU",
    "bench.greedy_agreement": "greedy tokens as on the CPU",
    "bench.load_seconds": "load, cold",
    "bench.ttft_seconds": "time to first token (TTFT)",
    "bench.prefill_tokens_per_second": "prefill",
    "bench.seconds_per_document": "a document, held to the schema",
    "bench.documents_per_minute": "documents a minute",
    "bench.peak_gpu_bytes": "requested GPU buffer bytes, peak",
    "bench.gpu_errors": "GPU errors and device losses",
    "bench.nodes_on_cpu": "graph nodes left on the CPU",
}


def render_card(release: Release, prompt: str) -> str:
    """README.md of the release; UserError naming card.md or fallback.toml where one is at fault."""
    where = f"domains/{release.domain}/card.md"
    body = fill_in(release.card_template, _context(release, prompt), where)
    return f"---\n{front_matter(release)}\n---\n\n{body}"


def _context(release: Release, prompt: str) -> dict[str, Any]:
    places = _below(release, prompt)
    return places | {
        "details": fill_in(FOLDS.read_text(encoding="utf-8"), places, FOLDS.name).strip(),
        "verdict": verdict.verdict(release),
        "first_table": verdict.quality(release),
        "footprint": verdict.footprint(release),
        "usage": _usage(release),
    }


BUNDLERS = """\
webpack wants `resolve: { fallback: { module: false } }`, esbuild `--external:module --external:url`; \
`model.close()` gives the GPU its memory back."""
"""XGrammar's file names two of Node's own modules, which only Vite leaves out by itself."""


def _usage(release: Release) -> str:
    """What to install and the better mode's snippet; then the other mode's."""
    mode, most = better_mode(verdict.of_check(release)), release.most_tokens
    first, what, second = usage_js(release.repository, mode, most)
    install = usage_install(release.repository)
    told, *example = _sample(release) or ("",)
    blocks = (
        fenced(install, "sh"),
        fenced(first, "js"),
        f"With other bundlers: {BUNDLERS} {told}".strip(),
        *example,
        what,
        fenced(second, "js"),
    )
    return "\n\n".join(("In a page, with Vite 7 or newer:", *blocks))


def _sample(release: Release) -> tuple[str, ...]:
    """What an answer is made of, and one that was given, beside what is right."""
    found = release.facts.get("sample") or {}
    if not found.get("fields"):
        return ()
    fields = ", ".join(f"`{' '.join(name.replace('`', ' ').split())}`" for name in found["fields"])
    made = f"An answer is one JSON object with {fields}. See [schema.json](schema.json)."
    if "answer" not in found:
        return (made,)
    asked = words(shorten(found["input"], SAMPLE_LENGTH, placeholder=" …"))
    right = f" (right is {words(found['gold'])}{_same(found)})" if found.get("gold") else ""
    text = f"{made} The first held-out record, “{asked}”, was answered{right}:"
    return (text, fenced(found["answer"], "json"))


def _same(found: dict[str, Any]) -> str:
    """How many fields of the answer are the right ones to the letter."""
    try:
        answer, gold = loads_strictly(found["answer"]), loads_strictly(found["gold"])
        same = sum(answer.get(name) == value for name, value in gold.items())
    except (ValueError, AttributeError):
        return "; no field of the answer is the same"
    return f"; {same} of {len(gold)} fields are the same"


def _below(release: Release, prompt: str) -> dict[str, Any]:
    """What a template may show besides the first screen."""
    title = release.repository.split("/")[-1]
    found = verdict.of_check(release)
    above = verdict.shown_first(release)
    in_check = {name.removeprefix("check.") for name in above}
    several = sum("kl_divergence" in a.measured for a in release.attempts) > 1
    facts = _as_words(release.facts.get("check", {}))
    return {
        "domain": release.domain,
        "title": title,
        "summary": _summary(release),
        "notices": _notices(release),
        "usage_python": usage_python(title, release.most_tokens),
        "usage_verify": usage_verify(release.repository),
        "prompt": f"Version {release.prompt_version}:\n\n{fenced(prompt)}",
        "check_table": quality_tables(found, release.facts.get("check", {}), above=in_check),
        "check_note": quality_note(facts),
        "fidelity": fidelity_section(release),
        "bench_table": measurements_table(release.measurements, BROWSER),
        "bench_note": _bench_note(release),
        "devices_table": _devices_table(release),
        "files_table": _files_table(release),
        "attempts_table": tables.attempts_table(release.attempts)
        + several * f"\n\n{tables.builds_table(release.attempts)}",
        "gates_table": tables.gates_table(release.gates, above=above),
        "provenance": _provenance(release),
    }


def _summary(release: Release) -> str:
    domain, base = release.domain, words(release.base)
    if release.prompt_only:
        return f"A {domain} model: {base} with a prompt, not fine-tuned, quantised to 4 bits."
    return f"A fine-tuned {domain} model, from {base}, quantised to 4 bits."


def _notices(release: Release) -> str:
    notes = [_not_taken(attempt, release.rung) for attempt in _failed(release)]
    if release.not_publishable_because:
        notes.append(f"**Not to be published**: {words(release.not_publishable_because)}")
    elif (release.facts.get("sample") or {}).get("example"):
        notes.append(f"**An example**: {words(release.why)}")
    if release.facts.get("bench", {}).get("software_adapter"):
        ran = "**No GPU was at hand**: the browser ran on a software adapter."
        notes.append(f"{ran} {_proven(release)}")
    if not release.commercial_use:
        notes.append("**Non-commercial**: the base model's licence forbids commercial use.")
    return "\n\n".join(f"> {note}" for note in notes)


def _failed(release: Release) -> list[Attempt]:
    """The rungs that were tried before this one, and failed whatever built them."""
    others = {a.rung: a for a in release.attempts if a.outcome == "failed"}
    return [attempt for rung, attempt in others.items() if rung != release.rung]


def _not_taken(attempt: Attempt, taken: str) -> str:
    name, reason = words(attempt.rung), words(attempt.reason)
    return f"**This is not {name} but {words(taken)}**: {name} failed at {attempt.stage}: {reason}"


def _proven(release: Release) -> str:
    """What a software adapter has shown, or which proofs of the browser are missing, and why."""
    of_page = [g for g in unproven(release.gates) if g.gate.measurement.startswith(PAGE)]
    told = [words(f"{gate.name} ({gate.reason})") for gate in of_page]
    if told:
        return f"Not measured: speed on a GPU, {', '.join(told)}."
    return "Loading, placement and agreement with the CPU are measured; speed on a GPU is not."


def _as_words(facts: Any) -> Any:
    """The same facts, every text in them harmless in a paragraph (shared.base.tables.words)."""
    if isinstance(facts, dict):
        return {key: _as_words(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_as_words(value) for value in facts]
    return words(facts) if isinstance(facts, str) else facts


def _bench_note(release: Release) -> str:
    facts = release.facts.get("bench", {})
    if "browser" not in facts:
        return "No browser was at hand."
    return words(f"Why {facts['dtype']}: {facts['dtype_reason']}.")


def _devices_table(release: Release) -> str:
    """What runs on which device, as the preflight's stage wrote it down."""
    found = release.facts.get("preflight", {}).get("devices")
    if not found:
        return "Not measured: no preflight was made for this release."
    return table(list(found[0]), [[str(v) for v in row.values()] for row in found])


def _files_table(release: Release) -> str:
    """Every file but the card, which cannot state its own hash, and what is written after it."""
    rows = [
        (f"`{name}`", f"{record.bytes:,}", f"`{record.sha256[:16]}…`")
        for name, record in sorted(release.files.items())
        if name != "README.md"
    ]
    return table(("file", "bytes", "SHA-256"), rows)


def _provenance(release: Release) -> str:
    m, source = release.measurements, release.source_files
    recipe = release.facts.get("recipe", {})
    tools = ", ".join(f"{name} {version}" for name, version in sorted(release.tools.items()))
    weights = ["config.json", *sorted(n for n in source if n.endswith(".safetensors"))]
    digest = sha256_json([source.get(name) for name in weights])
    cost = [shown(m.get(f"build.{name}")) for name in ("wall_seconds", "peak_rss_bytes")]
    state = {True: "", False: ", with changes not committed", None: ""}[release.git_clean]
    rows = [
        ("path taken", f"{release.rung}: {release.why}"),
        ("recipe", f"{release.exporter}: {recipe.get('words', 'not told')}"),
        ("weights", f"SHA-256 of all `{digest[:16]}…`"),
        *_adapter(source, "beside the base" if "family" in release.facts else "merged"),
        ("parameters", shown(m.get("source.parameters"))),
        ("build", f"{cost[0]}, peak memory {cost[1]}"),
        ("code", f"{release.git_commit or 'not in git'}{state}"),
        ("tools", tools),
        *_training(release),
    ]
    others = comparison(release.domain, recipe.get("others"))
    return f"{table(('what', 'which'), rows)}\n\n{others}"


def _adapter(source: dict[str, str], how: str) -> list[tuple[str, str]]:
    digest = source.get(ADAPTER)
    return [(f"adapter, {how}", f"SHA-256 {words(digest[:16])}…")] if digest else []


def _training(release: Release) -> list[tuple[str, str]]:
    """As the weights' own card or adapter_config.json tells it; nothing of it was measured here."""
    found = release.facts.get("source", {}).get("training", {})
    rows = [(f"training: {name}", str(text)) for name, text in found.items()]
    return rows or [("training details", "not provided")]
