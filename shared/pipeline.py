"""What the commands do, in the order the data flows; tasks.py only parses and prints."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from shared import paths
from shared.card.template import check_template
from shared.chain import Walk, walk
from shared.domain import Domain, domain_names, load_domain
from shared.errors import UserError
from shared.hashing import files_below, sha256_files
from shared.hub.names import repository_name
from shared.manifest import Strict
from shared.progress import say
from shared.release import RELEASE_FILE, Release, make_release, read_release, release_folder
from shared.rung_run import STAGES_IN_ALL, Attempt, Options
from shared.safety.secrets import refuse_secrets
from shared.signing import SIGNATURE_FILE
from shared.strict import read_text


class Publication(Strict):
    """Where and when a release went up; `release_key` tells whether it is the present one."""

    version: int = 1
    release_key: str
    repository: str
    url: str
    revision: str


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


def release_domain(name: str, options: Options, *, publish: bool = False) -> Result:
    """Walk the rungs, write the release folder, publish it if asked; errors end up in the result."""
    walked: Walk | None = None
    release: Release | None = None
    try:
        domain = load_domain(name)
        _need_publishable_words(domain)
        walked = walk(domain, options)
        write_attempts(name, walked.attempts)
        if walked.rung is None:
            raise UserError(f"{name}: no rung could be taken; see the table")
        release, _ = make_release(walked, force=options.force)
        published = publish_release(domain) if publish else None
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
    """The same up to `options.until`, without making a release."""
    try:
        walked = walk(load_domain(name), options)
    except UserError as error:
        return Result(name, error=str(error))
    reason = None if walked.rung else f"{name}: no rung could be taken; see the table"
    return Result(name, walked, error=reason)


def release_all(options: Options, *, publish: bool = False) -> list[Result]:
    """Every domain in turn; one that fails does not stop the others."""
    return [release_domain(name, options, publish=publish) for name in domain_names()]


def publish_release(domain: Domain) -> Publication:
    """Upload models/<domain>/webgpu as one commit; UserError where it must not be published."""
    release = read_release(release_folder(domain.name))
    say(f"[9/{STAGES_IN_ALL}] {domain.name} · publish")
    if not release.publishable:
        raise UserError(f"{domain.name} is not published: {release.not_publishable_because}")
    _need_untouched(release, release_folder(domain.name))
    refuse_secrets(release_folder(domain.name), files_below(release_folder(domain.name)))
    from shared.hub.publish import publish

    done = publish(
        release_folder(domain.name),
        repository_name(domain, release.base),
        private=domain.chain.publish.private,
        message=f"DocIntel {domain.name}: {release.rung}, release {release.key}",
    )
    say(f"      {'unchanged on the Hub' if done.unchanged else 'published'}: {done.url}")
    publication = Publication(
        release_key=release.key, repository=done.repo_id, url=done.url, revision=done.revision
    )
    _write(_publication_file(domain.name), publication.model_dump_json(indent=2) + "\n")
    return publication


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
    _write(_attempts_file(domain), json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_attempts(domain: str) -> list[Attempt]:
    """The attempts of the newest walk of this domain; none where it was never walked."""
    path = _attempts_file(domain)
    if not path.exists():
        return []
    return [Attempt.model_validate(attempt) for attempt in json.loads(path.read_bytes())]


def _attempts_file(domain: str) -> Path:
    return paths.build() / "attempts" / f"{domain}.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
