"""What the commands do, in the order the data flows; tasks.py only parses and prints."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shared import paths
from shared.card.template import check_template
from shared.chain import Walk, walk
from shared.defect import kept
from shared.domain import Domain, domain_names, load_domain
from shared.errors import UserError
from shared.evaluate.compare import write_newest
from shared.folders import write_text
from shared.gates import GateResult, failed, flatten, judge_gates
from shared.hashing import files_below, sha256_files
from shared.hub.names import repository_name
from shared.manifest import Strict
from shared.progress import say
from shared.release import RELEASE_FILE, Release, make_release, read_release, release_folder
from shared.rung_run import STAGES_IN_ALL, Attempt, Options, Stage
from shared.signature_file import SIGNATURE_FILE
from shared.strict import read_text

if TYPE_CHECKING:
    from shared.hub.order import Order
    from shared.hub.publish import Plan


class Publication(Strict):
    """Where a release went up; `release_key` tells whether it is the present one.

    It lies beside the release folder: release.json is one of the files that are published, and a
    file cannot name the commit that it is part of. `release_version` is the tag on the Hub.
    """

    version: int = 1
    release_key: str
    repository: str
    url: str
    revision: str
    release_version: str | None = None
    pull_request: int | None = None
    bytes_sent: int | None = None


@dataclass(frozen=True)
class PublishOptions:
    """How the command line changes what fallback.toml says under [publish]."""

    org: str | None = None
    private: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Result:
    """One domain's run. `release` is None where no rung was taken; `error` where it stopped."""

    domain: str
    walk: Walk | None = None
    release: Release | None = None
    publication: Publication | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def release_domain(name: str, options: Options, *, publish: PublishOptions | None = None) -> Result:
    """Walk the rungs, write the release folder, publish it if asked; errors end up in the result."""
    walked: Walk | None = None
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


def _gates_on(walked: Walk, last: Stage) -> list[GateResult]:
    """The domain's gates on what the stage `last` measured, judged; a typo is the release's matter."""
    stages = ("bench", "overflow") if last == "bench" else (last,)
    found = {name: m for name, m in walked.manifests.items() if name in stages}
    known = flatten(found)
    return judge_gates([g for g in walked.domain.chain.gate if g.measurement in known], found)


def _walk(domain: Domain, options: Options) -> Walk:
    walked = walk(domain, options)
    if "check" in walked.done:
        write_newest(domain.name, walked.manifests["check"])
    return walked


def release_all(
    options: Options,
    *,
    publish: PublishOptions | None = None,
    jobs: int = 1,
    memory: int | None = None,
    scheduler: str | None = None,
) -> list[Result]:
    """Every domain; one that fails does not stop the others.

    In turn, in this process; with `jobs` in as many worker processes, which together claim at most
    `memory` bytes (default: what is available); with `scheduler` on a Dask cluster. Publishing is
    done here, one after the other: the token stays on this machine.
    """
    if jobs == 1 and not scheduler:
        return [_published(_released(name, options), publish) for name in domain_names()]
    from shared.schedule.run import run_units

    results = run_units(domain_names(), options, jobs, memory, scheduler)
    return [_published(result, publish) for result in results]


def _released(name: str, options: Options) -> Result:
    """One domain of many: whatever goes wrong becomes its error, so that the others go on."""
    try:
        return release_domain(name, options)
    except Exception as error:
        return Result(name, error=kept(name, "release", error))


def _published(result: Result, options: PublishOptions | None) -> Result:
    """The same, published if that is asked for and there is something to publish."""
    if not result.ok or options is None:
        return result
    try:
        done = publish_release(load_domain(result.domain), options)
    except UserError as error:
        return replace(result, error=str(error))
    except Exception as error:
        return replace(result, error=kept(result.domain, "publish", error))
    return replace(result, publication=done)


def publish_release(domain: Domain, options: PublishOptions | None = None) -> Publication:
    """Make the Hub's main equal to models/<domain>/webgpu; UserError where it must not be done."""
    from shared.hub.publish import publish

    say(f"[10/{STAGES_IN_ALL}] {domain.name} · publish")
    order, repository = _order(domain, options or PublishOptions())
    done = publish(order, repository)
    end = "unchanged on the Hub" if done.unchanged else "published"
    say(f"      {end}: {done.url} {done.version}")
    publication = Publication(
        release_key=order.key,
        repository=done.repo_id,
        url=done.url,
        revision=done.revision,
        release_version=done.version,
        pull_request=done.pull_request,
        bytes_sent=done.bytes_sent,
    )
    write_text(_publication_file(domain.name), publication.model_dump_json(indent=2) + "\n")
    return publication


def plan_publication(domain: Domain, options: PublishOptions) -> Plan:
    """What publish_release would do; nothing is changed on the Hub, nor here outside of build/."""
    from shared.hub.publish import plan

    return plan(*_order(domain, options))


def publish_collection(org: str | None = None) -> tuple[str, list[str]]:
    """The Hub collection of all that was published from here: its URL, and what is in it."""
    from shared.hub.collection import Entry, renew_collection

    domains = [load_domain(name) for name in domain_names()]
    found = [(domain, read_publication(domain.name)) for domain in domains]
    entries = [
        Entry(published.repository, f"{domain.name}, {published.release_version or 'no version'}")
        for domain, published in found
        if published and (org is None or published.repository.split("/")[0] == org)
    ]
    if not entries:
        raise UserError(
            "nothing was published from here; run `./inv publish --domain <name>` first"
        )
    settings = domains[0].chain.publish
    owner = org or entries[0].repo_id.split("/")[0]
    return renew_collection(owner, settings.collection, entries, private=settings.private)


def _order(domain: Domain, options: PublishOptions) -> tuple[Order, str]:
    """What to publish and where; UserError where it must not be published."""
    from shared.addressed import addressed
    from shared.hub.order import Order
    from shared.signing import need_signed

    folder = release_folder(domain.name)
    release = read_release(folder)
    if not release.publishable:
        raise UserError(f"{domain.name} is not published: {release.not_publishable_because}")
    settings = domain.chain.publish
    _need_untouched(release, folder)
    need_signed(folder, settings.signing_key)
    repository = repository_name(domain, release.base, options.org)
    folder = addressed(folder, release, repository, settings.signing_key)
    _need_untouched(read_release(folder), folder)
    order = Order(
        folder,
        key=release.key,
        title=f"DocIntel {domain.name}: {release.rung}",
        private=options.private or settings.private,
        version=release.release_version,
        overwrite=options.overwrite,
    )
    return order, repository


def read_publication(domain: str) -> Publication | None:
    """The last publication of this domain from this machine, if any."""
    path = _publication_file(domain)
    return Publication.model_validate_json(path.read_bytes()) if path.exists() else None


def _publication_file(domain: str) -> Path:
    """Beside the release, not in build/: it cannot be made again."""
    return paths.models(domain) / "published.json"


def _need_untouched(release: Release, folder: Path) -> None:
    """UserError unless the folder holds the files that were measured, all of them and no others."""
    expected = {name: record.sha256 for name, record in release.files.items()}
    names = [n for n in files_below(folder) if n not in (RELEASE_FILE, SIGNATURE_FILE)]
    found = sha256_files(folder, names)
    changed = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if changed:
        raise UserError(
            f"{paths.shown(folder / changed[0])}: not the file that was measured; "
            f"run `./inv release --domain {release.domain} --force`"
        )


def write_attempts(domain: str, attempts: list[Attempt]) -> None:
    """Remember the newest walk, also one that took no rung: build/attempts/<domain>.json."""
    data = [attempt.model_dump() for attempt in attempts]
    write_text(_attempts_file(domain), json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_attempts(domain: str) -> list[Attempt]:
    """The attempts of the newest walk of this domain; none where it was never walked."""
    path = _attempts_file(domain)
    if not path.exists():
        return []
    return [Attempt.model_validate(attempt) for attempt in json.loads(path.read_bytes())]


def _attempts_file(domain: str) -> Path:
    return paths.build() / "attempts" / f"{domain}.json"
