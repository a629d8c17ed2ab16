"""The chain: a domain's rungs tried in order, every attempt recorded with the reason it ended.

The first rung that passes the gates that block a release is taken. One that cannot be had or fails
is recorded with the stage it reached and one sentence.
"""

from shared.base import paths
from shared.base.errors import UserError
from shared.base.progress import say
from shared.domain.domain import Domain
from shared.domain.records import read_records
from shared.domain.settings import Rung
from shared.evaluate.check import Selection
from shared.evaluate.models.device import parse_device
from shared.evaluate.systems import parse_constrained, parse_minutes, parse_systems
from shared.evaluate.token_windows import sample
from shared.pipeline.choose import measure_speeds, rank
from shared.pipeline.stages import Options, RungRun
from shared.release.model import (
    STAGES,
    ChainResult,
    Listing,
    OtherVersion,
    Release,
    read_release,
    release_folder,
)

OWN = "our own held-out records"
"""The origin of a domain's eval.jsonl, as tables name it."""


def run_chain(domain: Domain, options: Options) -> ChainResult:
    """Try the rungs until one passes; `ChainResult.rung` is None where none did.

    An example is never taken in place of a model that was brought, unless it is asked for.
    """
    result = ChainResult(domain)
    selection = select_records(domain, options)
    rungs = [domain.rung(options.rung)] if options.rung else domain.chain.rung
    if options.keep_onnx and not any("optimum" in rung.exporters for rung in rungs):
        raise UserError(
            "--keep-onnx: only the exporter optimum makes a full-precision ONNX, and no rung of "
            f'{domain.name} that is tried has it; give one exporters = ["optimum"] in fallback.toml'
        )
    tried: list[RungRun] = []
    for rung in rungs:
        runs = [RungRun(domain, rung, e, selection, options) for e in rung.exporters]
        if rung.example and (why := kept_from(rung, tried, domain, options)):
            runs[0].skip(why)
            runs = runs[:1]
        for run in _order(runs):
            if result.rung is None:
                run.finish()
            record(result, run)
        tried += runs
        if result.rung:
            break
    _tell_unused(result, tried)
    return result


def _tell_unused(result: ChainResult, tried: list[RungRun]) -> None:
    """Weights that were brought and that no rung takes have failed, in the first rung of their place: a
    release of another model says so in its card's first lines."""
    used = {run.rung.source for run in tried if run.outcome in ("taken", "failed")}
    for run in tried:
        if run.other_weights and run.rung.source not in used:
            used.add(run.rung.source)
            at = [attempt.rung for attempt in result.attempts].index(run.rung.name)
            result.attempts[at] = result.attempts[at].model_copy(update={"outcome": "failed"})


def kept_from(rung: Rung, tried: list[RungRun], domain: Domain, options: Options) -> str:
    """Why this example is not tried, "" where it may be: nobody asked for it, and a model was brought,
    or is the release that would be replaced."""
    if options.rung:
        return ""
    brought = first_brought(tried, rung)
    return not_in_place_of(brought) if brought else _kept_release(domain, options)


def _kept_release(domain: Domain, options: Options) -> str:
    """That the domain's release is of fine-tuned weights, which somebody has moved away since."""
    folder = release_folder(domain.name)
    if options.until != "gates" or not folder.is_dir():
        return ""
    try:
        old: Release | Listing = read_release(folder)
    except OtherVersion as error:
        old = error.listing
    except UserError:  # nothing that could be used
        return ""
    rung = next((rung for rung in domain.chain.rung if rung.name == old.rung), None)
    if old.domain != domain.name or (rung and (rung.example or rung.prompt_only)):
        return ""
    return (
        f"{paths.shown(folder)} stays {old.rung}'s release, whose weights are not found now; "
        "an example replaces it only where --rung asks for one"
    )


def not_in_place_of(brought: RungRun) -> str:
    return f"an example, not tried in place of {brought.rung.name}, which was brought"


def first_brought(tried: list[RungRun], example: Rung) -> RungRun | None:
    """The first model that was brought and not taken. Another model's weights in the example's own
    place are the example's; an example from the installation was brought by nobody."""
    return next(
        (
            run
            for run in tried
            if run.was_brought()
            and not (run.other_weights and run.rung.source == example.source)
            and not (run.rung.example and run.rung.source.startswith("pypi:"))
        ),
        None,
    )


def record(result: ChainResult, run: RungRun) -> None:
    """Note how a run ended; one that was taken is the result's."""
    attempt = run.as_attempt()
    result.attempts.append(attempt)
    if attempt.outcome == "taken":
        result.rung, result.stages, result.gates = run.rung, run.stages, run.gates
    else:
        say(f"      {attempt.outcome}: {attempt.reason}")


def _order(runs: list[RungRun]) -> list[RungRun]:
    """With several exporters: build and measure all, the better one first, each with the reason."""
    until = runs[0].options.until
    if len(runs) == 1 or STAGES.index(until) < STAGES.index("package"):
        return runs
    for run in runs:
        run.go_to("fidelity")
        if until in ("bench", "gates"):
            run.measure_on_gpu()
    built: dict[str, RungRun] = {run.exporter: run for run in runs if run.outcome == "open"}
    order = list(built)
    if len(built) > 1:
        measure_speeds(built)
        order, why = rank({name: run.measured for name, run in built.items()}, webgpu=True)
        say(f"      {why}")
        for run in built.values():
            run.why = why
    return [built[name] for name in order] + [run for run in runs if run.exporter not in built]


def select_records(domain: Domain, options: Options) -> Selection:
    """The held-out records to answer: a sample of the domain's own, N, all, or another file's."""
    if options.records_file:
        records = read_records(options.records_file, domain.schema, partial=True)
        origin = f"records of {options.records_file.parent.name}/{options.records_file.name}"
    else:
        records, origin = domain.records, OWN
    asked = options.records or str(domain.chain.check.records)
    if asked != "all" and not (asked.isascii() and asked.isdigit() and int(asked)):
        raise UserError(f"--records: a number or 'all' is wanted, not {asked!r}")
    count = len(records) if asked == "all" else int(asked)
    return Selection(
        sample(records, count),
        origin,
        own=not options.records_file,
        systems=parse_systems(options.systems),
        modes=parse_constrained(options.constrained),
        device=parse_device(options.device),
        minutes=parse_minutes(options.time_budget),
    )
