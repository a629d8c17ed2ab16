"""What the commands do, in the order the data flows; tasks.py only parses and prints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.parsing import read_text
from shared.domain.domain import Domain, load_domain
from shared.evaluate.compare import write_newest
from shared.hub.names import repository_name
from shared.pipeline.chain import run_chain
from shared.pipeline.publication import Publication, PublishOptions, publish_release
from shared.pipeline.rung import Options
from shared.release.card.template import check_template
from shared.release.folder import make_release
from shared.release.gates import GateResult, failed, flatten, judge_gates
from shared.release.model import Attempt, ChainResult, Release, Stage, release_folder
from shared.webgpu_bench.engines.questions import Benched


@dataclass(frozen=True)
class Result:
    """One domain's run. `release` is None where no rung was taken; `error` where it stopped."""

    domain: str
    chain: ChainResult | None = None
    release: Release | None = None
    publication: Publication | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def release_domain(name: str, options: Options, *, publish: PublishOptions | None = None) -> Result:
    """Walk the rungs, write the release folder, publish it if asked; errors end up in the result."""
    walked: ChainResult | None = None
    release: Release | None = None
    try:
        domain = load_domain(name)
        _need_publishable_words(domain)
        walked = _walk(domain, options)
        write_attempts(name, walked.attempts)
        if walked.rung is None:
            raise UserError(f"{name}: no rung could be taken; see the table")
        release, _ = make_release(walked, force=options.force)
        published = publish_release(domain, publish) if publish else None
    except UserError as error:
        return Result(name, walked, release, error=str(error))
    return Result(name, walked, release, published)


def _need_publishable_words(domain: Domain) -> None:
    """A mistake in the card's words or the repository's name is told before hours of building."""
    where = domain.folder / "card.md"
    check_template(read_text(where), paths.shown(where))
    for rung in domain.chain.rung:
        repository_name(domain, rung.base)


def run_until(name: str, options: Options) -> Result:
    """The same up to `options.until`, without making a release; a gate on that stage that fails and
    blocks a release is the result's error."""
    try:
        walked = _walk(load_domain(name), options)
    except UserError as error:
        return Result(name, error=str(error))
    if walked.rung is None:
        return Result(name, walked, error=f"{name}: no rung could be taken; see the table")
    if not options.on_the_way and options.until != "gates":  # that stage has judged them all
        walked.gates = _gates_on(walked, options.until)
    fatal = failed(walked.gates, "release")
    reason = f"{name}: gate {fatal[0].name!r}: {fatal[0].reason}" if fatal else None
    return Result(name, walked, error=reason)


def _gates_on(walked: ChainResult, last: Stage) -> list[GateResult]:
    """The domain's gates on what the stage `last` measured, judged; a typo is the release's matter."""
    stages = ("bench", "overflow") if last == "bench" else (last,)
    found = {name: m for name, m in walked.manifests.items() if name in stages}
    known = flatten(found)
    return judge_gates([g for g in walked.domain.chain.gate if g.measurement in known], found)


def _walk(domain: Domain, options: Options) -> ChainResult:
    walked = run_chain(domain, options)
    if "check" in walked.stages:
        write_newest(domain.name, walked.manifests["check"])
    return walked


def write_attempts(domain: str, attempts: list[Attempt]) -> None:
    """Remember the newest walk, also one that took no rung: build/attempts/<domain>.json."""
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
    return released if released.is_dir() else run_chain(loaded, Options(until="package")).package
