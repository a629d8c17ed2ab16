"""What is printed at the end, the acceptance list of `status`, and the tables of `bench-all`."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared.base import paths
from shared.base.errors import NoWeights, OtherWeights, RungFailed, UserError
from shared.base.files import write_text
from shared.base.formatting import number
from shared.base.hashing import NotDone, only_what_is_done
from shared.base.manifest import Measurement
from shared.base.tables import shown, table
from shared.domain.domain import domain_names, load_domain
from shared.domain.settings import Rung
from shared.evaluate.compare import newest_file
from shared.evaluate.scoring.measurements import WORKS
from shared.pipeline.inputs import mistakes
from shared.pipeline.one_domain import Result, read_attempts
from shared.pipeline.publication import read_publication
from shared.release.card.quality import quality_note, quality_tables
from shared.release.card.tables import attempts_table, builds_table, gates_table
from shared.release.gates import GateResult, Outcome, flatten, without_gpu
from shared.release.model import CARD_FILE, Release, own_release, release_folder
from shared.release.signing import signed_by
from shared.source.source import inspected, refuse_bad_adapter, source_stage

if TYPE_CHECKING:
    from shared.hub.publish import Plan

TERMINAL = "rounded_outline"
LINK = "Engines, depths and memory: [bench-all.html](bench-all.html)"

COMPARED = {
    "package.q4f16_bytes": "q4f16",
    "package.q4_bytes": "q4",
    "fidelity.agreement": "token as 16-bit",
    "check.release.constrained.json_validity": "valid JSON",
    "check.release.constrained.schema_compliance": "schema",
    "check.release.constrained.field_score": "field score",
    "check.release.free.decode_tokens_per_second": "CPU decode",
    "bench.greedy_agreement": "browser = CPU",
    "bench.load_seconds": "load",
    "bench.ttft_seconds": "TTFT",
    "bench.prefill_tokens_per_second": "prefill",
    "bench.decode_tokens_per_second": "decode",
    "bench.documents_per_minute": "documents a minute",
    "bench.peak_gpu_bytes": "GPU buffers",
}


def summary(result: Result) -> str:
    """The last thing a command prints: rungs, gates, and where the result lies or why there is none."""
    parts = []
    if result.chain:
        parts.append(attempts_table(result.chain.attempts, TERMINAL))
        if builds := builds_table(result.chain.attempts, TERMINAL):
            parts.append(builds)
        if result.chain.gates:
            parts.append(gates_table(result.chain.gates, TERMINAL))
    if result.release:
        folder = paths.shown(release_folder(result.domain))
        because = result.release.not_publishable_because
        parts.append(f"release   {folder}  (rung {result.release.rung}, {result.release.base})")
        parts.append(f"card      {folder}/{CARD_FILE}")
        if not result.release.commercial_use:
            words = "the base model's licence forbids commercial use"
            parts.append(f"licence   non-commercial: {words}")
        parts.append(f"signed    {_signed(result.domain)}")
        may = f"it may be published{' '.join(['', *_flag(result.release)])}"
        parts.append(f"publish   {f'no: {because}' if because else may}")
    elif result.chain and "package" in result.chain.stages:
        parts.append(f"package   {paths.shown(result.chain.package)}")
    if result.publication:
        there = result.publication
        parts.append(f"published {there.url} {there.release_version} at {there.revision}")
    return "\n".join(parts)


def _flag(release: Release) -> list[str]:
    """What `publish` has to be told where only a GPU can decide some gates, and none did."""
    return ["--without-gpu"] if without_gpu(release.gates) else []


def plan_table(plan: "Plan") -> str:
    """What `publish --dry-run` prints: the files that would change, the others' number, the sums."""
    todo = plan.difference
    rows = [
        *(("added", file.name, _size(file.size)) for file in todo.added),
        *(("changed", file.name, _size(file.size)) for file in todo.changed),
        *(("deleted", name, "") for name in todo.deleted),
        ("unchanged", f"{len(todo.unchanged)} files", ""),
    ]
    kind = f"{'private' if plan.private else 'public'}{', new' if plan.is_new else ''}"
    lines = [table(("what", "file", "to send"), rows, TERMINAL)]
    lines.append(f"repository  {plan.repo_id} ({kind})")
    if plan.continues is not None:
        lines.append(f"continues   pull request #{plan.continues}")
    lines.append(f"to send     {_size(plan.left_to_send)} at most")
    lines.append(f"version     {plan.version}")
    refused = f"refused     {plan.against}"
    return "\n".join([*lines, refused if plan.against else "dry run     nothing was written"])


def _size(size: int) -> str:
    """A card has a few thousand bytes: they are counted one by one."""
    return number(size, "B") if size >= 1e6 else f"{size:,} B"


def _signed(domain: str) -> str:
    by = signed_by(release_folder(domain))
    return f"by public key {by[:16]}…" if by else "no: DOCINTEL_SIGNING_KEY names no key"


def check_report(result: Result) -> str:
    """The check's tables and note; empty where no check was made."""
    if not result.chain or "check" not in result.chain.stages:
        return ""
    made = result.chain.manifests["check"]
    parts = [quality_tables(made.measurements, made.facts, TERMINAL), quality_note(made.facts)]
    parts.append(f"as JSON: {paths.shown(newest_file(result.domain))}")
    return "\n\n".join(filter(None, parts))


def overview(results: list[Result]) -> str:
    """One line a domain, for the commands that go over all of them."""
    rows = [(r.domain, "ok" if r.ok else "failed", _rung(r), r.error or _where(r)) for r in results]
    return table(("domain", "end", "rung", "where, or why"), rows, TERMINAL)


def _where(result: Result) -> str:
    if result.publication:
        there = result.publication
        return f"{there.url} {there.release_version}, {number(there.bytes_sent or 0, 'B')} sent"
    return paths.shown(release_folder(result.domain)) if result.release else "measured"


def comparison(results: list[Result], style: str = TERMINAL) -> str:
    """The domains side by side, with what any of them measured: a bench asks for no answers."""
    known = {name for result in results for name in measurements_of(result)}
    names = [name for name in COMPARED if name in known] or list(COMPARED)
    rows = [
        [r.domain, _rung(r), *(_brief(measurements_of(r).get(name)) for name in names)]
        for r in results
    ]
    return table(("domain", "rung", *(COMPARED[name] for name in names)), rows, style)


def write_comparison(results: list[Result]) -> list[Path]:
    """The comparison as Markdown, CSV and JSON under build/reports/."""
    sheet = io.StringIO()
    rows = [(r.domain, _rung(r), *_values(r)) for r in results]
    csv.writer(sheet).writerows([("domain", "rung", *COMPARED), *rows])
    data = [
        {
            "domain": r.domain,
            "rung": _rung(r),
            "error": r.error,
            "measurements": {k: m.model_dump() for k, m in measurements_of(r).items()},
        }
        for r in results
    ]
    contents = {
        "md": comparison(results, "github") + f"\n\n{LINK}\n",
        "csv": sheet.getvalue(),
        "json": json.dumps(data, indent=2, ensure_ascii=False) + "\n",
    }
    folder = paths.build() / "reports"
    return [write_text(folder / f"bench-all.{end}", text) for end, text in contents.items()]


def _brief(measurement: Measurement | None) -> str:
    """A cell: the reasons stand in card and JSON, a table of twelve columns has no room for them."""
    if measurement is None or measurement.value is None:
        return "not measured"
    return shown(measurement).replace(" (software adapter)", " *")


def _rung(result: Result) -> str:
    return result.chain.rung.name if result.chain and result.chain.rung else "none"


def measurements_of(result: Result) -> dict[str, Measurement]:
    """`<stage>.<name>` → what a run measured."""
    return flatten(result.chain.manifests) if result.chain else {}


def _values(result: Result) -> list[str]:
    values = [m.value if (m := measurements_of(result).get(name)) else None for name in COMPARED]
    return ["" if value is None else str(value) for value in values]


def inputs_report(domain: str) -> tuple[str, bool]:
    """What `doctor --domain` prints, and whether a release could begin: an example does not stand in
    for a model that was brought and is refused."""
    found = mistakes(domain)
    rows = [("domain and machine", "mistake", words) for words in found]
    try:
        rungs = load_domain(domain).chain.rung
    except UserError:
        rungs = []
    looked = [(rung, _looked_at(rung)) for rung in rungs]
    rows += [(f"rung {rung.name}", state, why) for rung, (state, why, _) in looked]
    refused, may_be = list[tuple[Rung, bool]](), False
    for rung, (state, _, brought) in looked:
        # as shared.pipeline.chain.first_brought: another model's weights in its own place are its own
        stops = any(not (other and one.source == rung.source) for one, other in refused)
        may_be |= state != "not taken" and not (rung.example and stops)
        if brought and not (rung.example and rung.source.startswith("pypi:")):
            refused.append((rung, brought == "other"))
    whole = table(("what", "state", "why"), rows or [("", "ok", "")], TERMINAL)
    return whole, not found and may_be


def _looked_at(rung: Rung) -> tuple[str, str, Literal["", "bad", "other"]]:
    """State, why, and what of weights that were brought and that nothing can be built on: bad ones, or
    another model's."""
    try:
        if any(place and place.startswith("hf:") for place in (rung.source, rung.adapter)):
            if rung.adapter and not rung.adapter.startswith("hf:"):
                refuse_bad_adapter(rung)
            return "not looked at", f"{rung.weights} would be fetched from the Hub", ""
        with only_what_is_done():
            inspected(rung)
        source = source_stage(rung)
    except NotDone:
        return "not looked at", f"{rung.weights} would be unpacked first", ""
    except RungFailed as error:
        other = isinstance(error, OtherWeights)
        nothing = isinstance(error, NoWeights) and not other
        return "not taken", str(error), "other" if other else "" if nothing else "bad"
    except UserError as error:  # found before a rung could fail: a broken config.json, a pickle
        return "not taken", str(error), "bad"
    where = rung.weights if rung.adapter else paths.shown(source.folder)
    return "ok", f"{source.done.manifest.facts['architecture']} in {where}", ""


def status(domains: list[str] | None = None) -> str:
    """The acceptance list per domain: done, failed or not measured, by what it is judged, and why."""
    rows = [row for name in domains or domain_names() for row in _acceptance(name)]
    return table(("domain", "acceptance", "state", "judged by", "evidence"), rows, TERMINAL)


GPU_SPEED = "over 5 tokens/s on a discrete GPU"
ACCEPTANCE = {
    "under 2 GB": "package.q4f16_bytes",
    "loads in Chrome on WebGPU": "bench.loads",
    "no OOM within 8 GB": "bench.peak_gpu_bytes",
    GPU_SPEED: "bench.decode_tokens_per_second",
}
"""What is accepted → the measurement whose gate judges it."""
TTFT = "bench.ttft_seconds"
SCHEMA_HOLDS = "check.release.constrained.schema_compliance"
CONTENT = tuple(f"check.{name}" for name in WORKS)
State = Literal["done", "failed", "not measured"]
STATES: dict[Outcome, State] = {"pass": "done", "fail": "failed", "not measured": "not measured"}
Line = tuple[str, State, str, str]
"""What is accepted, its state, by what that was judged, and the evidence."""


def _acceptance(domain: str) -> list[tuple[str, ...]]:
    try:
        release = own_release(domain)
    except UserError as error:
        return [(domain, *_exports(domain, None, str(error)))]
    verdicts = [(words, *_verdict(release.gates, name)) for words, name in ACCEPTANCE.items()]
    verdicts = [_with_adapter(line, release) for line in verdicts]
    others = (_appropriate(release), _uploaded(domain, release), _documented(domain, release))
    return [(domain, *row) for row in (_exports(domain, release, ""), *verdicts, *others)]


def _with_adapter(line: Line, release: Release) -> Line:
    """Speed is of an adapter, which is named: WebGPU does not tell whether it is a discrete one."""
    words, state, by, evidence = line
    adapter = release.facts.get("bench", {}).get("adapter") or {}
    named = " ".join(filter(None, (adapter.get(key) for key in ("vendor", "architecture"))))
    told = words == GPU_SPEED and state != "not measured" and named
    return words, state, by, f"{evidence} on {named}" if told else evidence


def _exports(domain: str, release: Release | None, missing: str) -> Line:
    """Whether the newest run built something, and if a rung failed on the way, which and why."""
    words, by = "exports without errors", "the newest run's rungs"
    attempts = read_attempts(domain)
    broken = next((a for a in attempts if a.outcome == "failed" and a.stage == "build"), None)
    if broken:
        return words, "failed", by, f"rung {broken.rung}: {broken.reason}"
    if attempts and not any(a.outcome == "taken" for a in attempts):
        last = attempts[-1]
        return words, "failed", by, f"no rung could be taken; the last, {last.rung}: {last.reason}"
    if release is None:
        return words, "not measured", by, missing
    return words, "done", by, f"rung {release.rung}: {release.base}"


def _verdict(gates: list[GateResult], measurement: str) -> tuple[State, str, str]:
    result = next((g for g in gates if g.gate.measurement == measurement), None)
    if result is None:
        return "not measured", "no gate", f"there is no [[gate]] on {measurement}"
    bound = "" if result.gate.equals is True else f" {result.bound}"
    return STATES[result.outcome], f"{result.name}{bound}", result.reason


def _appropriate(release: Release) -> Line:
    """By what the answers know: the grammar alone makes any model's answers satisfy the schema."""
    words = "domain-appropriate structured output"
    judging = {g.gate.measurement for g in release.gates} | {CONTENT[0]}  # some are for tuned rungs
    names = [name for name in CONTENT if name in judging]
    judged = [_verdict(release.gates, name) for name in (SCHEMA_HOLDS, *names)]
    for state in ("failed", "not measured"):
        if lines := [line for line in judged if line[0] == state]:
            return words, *lines[0]
    evidence = "; ".join(release.measurements[name].how for name in names)
    return words, "done", "; ".join(by for _, by, _ in judged[1:]), evidence


def _uploaded(domain: str, release: Release) -> Line:
    by = "what publish recorded"
    try:
        published = read_publication(domain)
    except UserError as error:
        return "uploaded", "not measured", by, str(error)
    if published and published.is_of(release):
        named = f"{published.url} {published.release_version or ''}".strip()
        return "uploaded", "done", by, f"{named} at {published.revision}"
    if published:
        return "uploaded", "not measured", by, f"an older release is up: {published.url}"
    command = " ".join(["./inv publish --domain", domain, *_flag(release)])
    reason = release.not_publishable_because or f"run `{command}`"
    return "uploaded", "not measured", by, reason


def _documented(domain: str, release: Release) -> Line:
    """The card must name its usage and figures of a browser that was there."""
    path = release_folder(domain) / CARD_FILE
    words, by = "card documents usage and benchmarks", "its snippet and its benchmark"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return words, "failed", by, f"{paths.shown(path)}: cannot be read: {error}"
    first = release.measurements.get(TTFT, Measurement.missing("no browser was asked"))
    if first.value is None:
        return words, "not measured", by, f"time to first token: {first.reason}"
    whole = "@huggingface/transformers" in text and "time to first token" in text
    return words, "done" if whole else "failed", by, paths.shown(path)
