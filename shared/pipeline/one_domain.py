"""One domain: its chain, its release, its publication; shared.cli only parses and prints."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.domain.domain import Domain, load_domain
from shared.evaluate.compare import write_newest
from shared.pipeline.chain import run_chain
from shared.pipeline.forecast import total_time
from shared.pipeline.inputs import need_calibration, need_inputs
from shared.pipeline.stages import Options, saved_traceback
from shared.release.gates import GateResult, failed, flatten, judge_gates
from shared.release.model import Attempt, ChainResult, Release, Stage, release_folder
from shared.webgpu_bench.engines.questions import Benched

if TYPE_CHECKING:  # a bad folder is refused without a quarter second of the Hub's import
    from shared.pipeline.publication import Publication, PublishOptions


Run = Callable[[Domain, Options], ChainResult]


@dataclass(frozen=True)
class Result:
    """One domain's run. `release` is None where no rung was taken; `error` where it stopped."""

    domain: str
    chain: ChainResult | None = None
    release: Release | None = None
    publication: "Publication | None" = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def release_domain(
    name: str,
    options: Options,
    *,
    publish: "PublishOptions | None" = None,
    run: Run | None = None,
) -> Result:
    """Run the chain, write the release folder, publish it if asked; errors end up in the result.

    `run`: what takes the domain through the stages in the chain's place.
    """
    chain: ChainResult | None = None
    release: Release | None = None
    try:
        if run is None:  # whoever gives one has asked before
            need_inputs(
                name, rung=options.rung, force=options.force, calibration=options.calibration
            )
        domain = load_domain(name, options.calibration)
        with total_time():
            chain = _run(domain, options, run)
        write_attempts(name, chain.attempts)
        if chain.rung is None:
            raise UserError(_none_taken(chain))
        from shared.pipeline.publication import publish_release
        from shared.release.folder import make_release

        release, _ = make_release(chain, force=options.force)
        published = publish_release(domain, publish) if publish else None
    except UserError as error:
        return Result(name, chain, release, error=str(error))
    return Result(name, chain, release, published)


def run_until(name: str, options: Options) -> Result:
    """The same up to `options.until`, without making a release; a gate on that stage that fails and
    blocks a release is the result's error."""
    try:
        if options.calibration:
            need_calibration(name, options.calibration)
        chain = _run(load_domain(name, options.calibration), options)
    except UserError as error:
        return Result(name, error=str(error))
    if chain.rung is None:
        return Result(name, chain, error=_none_taken(chain))
    if not options.on_the_way and options.until != "gates":  # that stage has judged them all
        chain.gates = _gates_on(chain, options.until)
    fatal = failed(chain.gates, "release")
    reason = f"{name}: gate {fatal[0].name!r}: {fatal[0].reason}" if fatal else None
    return Result(name, chain, error=reason)


def _none_taken(chain: ChainResult) -> str:
    """Why there is no release, by the first rung that was tried and failed, else by the last one."""
    first = next((a for a in chain.attempts if a.outcome == "failed"), chain.attempts[-1])
    why = f"{first.rung} {first.outcome} at {first.stage}: {first.reason}"
    return f"{chain.domain.name}: no rung could be taken; see the table: {why}"


def _gates_on(chain: ChainResult, last: Stage) -> list[GateResult]:
    """The domain's gates on what the stage `last` measured, judged; a typo is the release's matter."""
    stages = ("bench", "overflow") if last == "bench" else (last,)
    found = {name: m for name, m in chain.manifests.items() if name in stages}
    known = flatten(found)
    gates = chain.domain.chain.gates_of(chain.rung)
    return judge_gates([g for g in gates if g.measurement in known], found)


def _run(domain: Domain, options: Options, run: Run | None = None) -> ChainResult:
    chain = (run or run_chain)(domain, options)
    if "check" in chain.stages:
        write_newest(domain.name, chain.manifests["check"])
    return chain


def record_failure(domain: str, step: str, error: Exception) -> Result:
    """A defect of ours in one domain of many: one sentence as its result."""
    return Result(domain, error=f"{domain}: {step}: {saved_traceback(domain, error)}")


def write_attempts(domain: str, attempts: list[Attempt]) -> None:
    """Keep the newest run's attempts, also where no rung was taken: build/attempts/<domain>.json."""
    data = [attempt.model_dump() for attempt in attempts]
    write_text(_attempts_file(domain), json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_attempts(domain: str) -> list[Attempt]:
    """The attempts of the newest run of this domain; none where this version of the code ran none."""
    path = _attempts_file(domain)
    try:
        return TypeAdapter(list[Attempt]).validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return []


def _attempts_file(domain: str) -> Path:
    return paths.build() / "attempts" / f"{domain}.json"


def benched(results: list[Result]) -> list[Benched]:
    """The models of those domains whose bench stage was reached."""
    chains = [result.chain for result in results if result.chain]
    return [
        Benched(chain.domain, chain.rung, chain.stages["package"], chain.stages["bench"])
        for chain in chains
        if chain.rung and "bench" in chain.stages
    ]


def package_of(domain: str, folder: str) -> Path:
    """The folder asked for, the domain's release, or the package its rungs come to without one."""
    if folder:
        return Path(folder).expanduser()
    if not domain:
        raise UserError("--domain or --folder is wanted")
    loaded = load_domain(domain)
    released = release_folder(domain)
    if released.is_dir():
        return released
    made = run_chain(loaded, Options(until="package"))
    if "package" not in made.stages:
        raise UserError(f"{domain}: nothing was built; {made.attempts[-1].reason}")
    return made.package
