"""Publish a domain's release, or say what that would do; remember what was published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.base import paths
from shared.base.errors import UserError
from shared.base.files import write_text
from shared.base.hashing import files_below, sha256_files
from shared.base.manifest import FileRecord, Strict
from shared.base.parsing import read_json, validate
from shared.base.progress import say
from shared.domain.domain import Domain, domain_names, load_domain
from shared.hub.files import Order
from shared.hub.names import repository_name
from shared.olive.family_record import RECORD
from shared.release.gates import without_gpu
from shared.release.model import (
    RELEASE_FILE,
    STAGES_IN_ALL,
    Release,
    own_release,
    read_release,
    release_folder,
)
from shared.release.rename import renamed
from shared.release.signature import SIGNATURE_FILE
from shared.release.signing import need_signed

if TYPE_CHECKING:
    from shared.hub.publish import Plan


class Publication(Strict):
    """Where a release went up; `release_key` and `created` tell whether it is the present one.

    It lies beside the release folder: release.json is one of the files that are published, and a
    file cannot name the commit that it is part of. `release_version` is the tag on the Hub.
    """

    version: int = 1
    release_key: str
    created: str | None = None
    repository: str
    url: str
    revision: str
    release_version: str | None = None
    pull_request: int | None = None
    bytes_sent: int | None = None

    def is_of(self, release: Release) -> bool:
        """Whether it is this very release that went up: one made anew by --force has the same key."""
        return self.release_key == release.key and self.created in (None, release.created)


@dataclass(frozen=True)
class PublishOptions:
    """How the command line changes what a domain has under [publish].

    `without_gpu`: publish though no GPU has decided the gates that need one; the card says so.
    """

    org: str | None = None
    private: bool = False
    overwrite: bool = False
    without_gpu: bool = False


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
        created=read_release(order.folder).created,
        repository=done.repo_id,
        url=done.url,
        revision=done.revision,
        release_version=done.version,
        pull_request=done.pull_request,
        bytes_sent=done.bytes_sent,
    )
    write_text(_publication_file(domain.name), publication.model_dump_json(indent=2) + "\n")
    return publication


def plan_publication(domain: Domain, options: PublishOptions) -> "Plan":
    """What publish_release would do; nothing is changed on the Hub, nor here outside of build/."""
    from shared.hub.publish import plan

    return plan(*_order(domain, options))


def publish_collection(org: str | None = None) -> tuple[str, list[str]]:
    """The Hub collection of all that was published from here: its URL, and what is in it."""
    from shared.hub.collection import Entry, renew_collection

    domains = [load_domain(name) for name in need_published()]
    found = [(domain, read_publication(domain.name)) for domain in domains]
    entries = [
        Entry(published.repository, f"{domain.name}, {published.release_version or 'no version'}")
        for domain, published in found
        if published and (org is None or published.repository.split("/")[0] == org)
    ]
    if not entries:
        raise UserError(f"nothing was published to {org} from here")
    settings = domains[0].chain.publish
    owner = org or entries[0].repo_id.split("/")[0]
    return renew_collection(owner, settings.collection, entries, private=settings.private)


def _order(domain: Domain, options: PublishOptions) -> tuple[Order, str]:
    """What to publish and where; UserError where it must not be published."""
    from shared.hub.files import Order

    folder = release_folder(domain.name)
    release = own_release(domain.name)
    need_publishable(domain.name, release, options)
    settings = domain.chain.publish
    need_untouched(folder, release.files, release_again(domain.name))
    need_signed(folder, settings.signing_key)
    repository = repository_name(domain, release.base, options.org)
    folder = renamed(folder, release, repository, settings.signing_key)
    need_untouched(folder, read_release(folder).files, release_again(domain.name))
    order = Order(
        folder,
        key=release.key,
        title=f"DocIntel {domain.name}: {release.rung}",
        private=options.private or settings.private,
        version=release.release_version,
        overwrite=options.overwrite,
    )
    return order, repository


def need_published(domains: Sequence[str] = ()) -> list[str]:
    """These domains, or all that were published from here; UserError where nothing was."""
    found = list(domains) or published_domains()
    if not found:
        raise UserError(
            "nothing was published from here; run `./inv publish --domain <name>` first"
        )
    return found


def published_domains() -> list[str]:
    return [name for name in domain_names() if read_publication(name)]


def read_publication(domain: str) -> Publication | None:
    """The last publication of this domain from this machine, if any; UserError where its record is
    damaged."""
    path = _publication_file(domain)
    return validate(read_json(path), Publication, paths.shown(path)) if path.exists() else None


def _publication_file(domain: str) -> Path:
    """Beside the release, not in build/: it cannot be made again."""
    return paths.models(domain) / "published.json"


def release_again(domain: str) -> str:
    return f"./inv release --domain {domain} --force"


def need_publishable(name: str, release: Release, options: PublishOptions) -> None:
    """UserError where a gate or its rung stands against it, or a GPU has to decide."""
    if not release.publishable:
        raise UserError(f"{name} is not published: {release.not_publishable_because}")
    undecided = without_gpu(release.gates)
    if undecided and not options.without_gpu:
        raise UserError(
            f"{name} is not published: gate {undecided[0].name!r}: not measured: "
            f"{undecided[0].reason}; measure it on a machine with a GPU, or say --without-gpu"
        )


def need_untouched(folder: Path, listed: Mapping[str, FileRecord], again: str) -> None:
    """UserError unless the folder holds the files that were measured, all of them and no others;
    `again`: the command that makes them anew."""
    expected = {name: record.sha256 for name, record in listed.items()}
    beside = (RELEASE_FILE, RECORD, SIGNATURE_FILE)
    names = [n for n in files_below(folder) if n not in beside]
    found = sha256_files(folder, names)
    changed = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if changed:
        raise UserError(
            f"{paths.shown(folder / changed[0])}: not the file that was measured; run `{again}`"
        )
