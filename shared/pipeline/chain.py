"""Walk a domain's rungs in order, remembering every attempt and why it ended.

For each rung: source → build → package → check → bench → gates. The first rung that passes the
gates that block a release is taken; a rung that cannot be had or fails is recorded with the stage
it reached and one sentence.
"""

from __future__ import annotations

from shared.base.errors import UserError
from shared.base.progress import say
from shared.domain.domain import Domain
from shared.domain.records import read_records
from shared.evaluate.check import Selection
from shared.evaluate.fidelity import better
from shared.evaluate.held_out import sample
from shared.evaluate.systems import parse_constrained, parse_systems
from shared.pipeline.rung import Options, RungRun, candidates
from shared.release.model import STAGES, ChainResult

OWN = "our own held-out records"
"""The origin of a domain's eval.jsonl, as tables name it."""


def run_chain(domain: Domain, options: Options) -> ChainResult:
    """Try the rungs until one passes; `ChainResult.rung` is None where none did."""
    result = ChainResult(domain)
    selection = select_records(domain, options)
    rungs = [domain.rung(options.rung)] if options.rung else domain.chain.rung
    for rung in rungs:
        for run in _order([RungRun(domain, rung, r, selection, options) for r in rung.recipes]):
            if result.rung is None:
                run.finish()
            attempt = run.as_attempt()
            result.attempts.append(attempt)
            if attempt.outcome == "taken":
                result.rung, result.stages = rung, run.stages
                result.gates = run.gates
            else:
                say(f"      {attempt.outcome}: {attempt.reason}")
        if result.rung:
            break
    return result


def _order(runs: list[RungRun]) -> list[RungRun]:
    """With several recipes: build all, measure all, the better one first, each told why."""
    if len(runs) == 1 or STAGES.index(runs[0].options.until) < STAGES.index("package"):
        return runs
    for run in runs:
        run.go_to("fidelity")
        run.measure_on_gpu()
    built: dict[str, RungRun] = {run.recipe: run for run in runs if run.outcome == "open"}
    if len(built) < 2:
        return sorted(runs, key=lambda run: run.outcome != "open")
    order, why = better(candidates(built))
    say(f"      {why}")
    for run in built.values():
        run.why = why
    ranked = [built[name] for name in order]
    return ranked + [run for run in runs if run.recipe not in built]


def select_records(domain: Domain, options: Options) -> Selection:
    """The held-out records to answer: a sample of the domain's own, N, all, or another file's."""
    if options.records_file:
        records = read_records(options.records_file, domain.schema)
        origin = f"records of {options.records_file.parent.name}/{options.records_file.name}"
    else:
        records, origin = domain.records, OWN
    asked = options.records or str(domain.chain.check.records)
    if asked != "all" and (not asked.isdigit() or asked == "0"):
        raise UserError(f"--records: a number or 'all' is wanted, not {asked!r}")
    count = len(records) if asked == "all" else int(asked)
    return Selection(
        sample(records, count),
        origin,
        own=not options.records_file,
        systems=parse_systems(options.systems),
        modes=parse_constrained(options.constrained),
    )
