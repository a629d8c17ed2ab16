"""Publish a family's folder, by the same transaction as a release.

Its base's bytes are sent once for all: the Hub stores a large file under its SHA-256, and does not ask
for one that it has from another repository.
"""

from typing import TYPE_CHECKING

from shared.base.errors import UserError
from shared.base.progress import say
from shared.domain.defaults import read_defaults
from shared.hub.files import Order
from shared.hub.names import organisation
from shared.pipeline.publication import PublishOptions, need_publishable, need_untouched
from shared.release.model import (
    FamilyRelease,
    family_folder,
    own_release,
    read_family_release,
)
from shared.release.rename import renamed_family
from shared.release.signing import need_signed

if TYPE_CHECKING:
    from shared.hub.publish import Plan, Published


def publish_family(name: str, options: PublishOptions | None = None) -> "Published":
    """Make the Hub's main equal to models/families/<name>; UserError where it must not be done."""
    from shared.hub.publish import publish

    say(f"family {name} · publish")
    done = publish(*_order(name, options or PublishOptions()))
    end = "unchanged on the Hub" if done.unchanged else "published"
    say(f"      {end}: {done.url} {done.version}")
    return done


def plan_family_publication(name: str, options: PublishOptions) -> "Plan":
    """What publish_family would do; nothing is changed on the Hub."""
    from shared.hub.publish import plan

    return plan(*_order(name, options))


def _order(name: str, options: PublishOptions) -> tuple[Order, str]:
    """What to publish and where. Each of its domains must be one that might be published itself."""
    folder, settings = family_folder(name), read_defaults()[1].publish
    family = read_family_release(folder)
    _need_its_domains(family, options)
    again = f"./inv release-family --name {name}"
    need_untouched(folder, family.files, again)
    need_signed(folder, settings.signing_key)
    repository = f"{organisation(settings, options.org)}/{name}"
    folder = renamed_family(folder, family, repository, settings.signing_key)
    need_untouched(folder, read_family_release(folder).files, again)
    order = Order(
        folder,
        key=family.key,
        title=f"DocIntel family {name}",
        private=options.private or settings.private,
        overwrite=options.overwrite,
    )
    return order, repository


def _need_its_domains(family: FamilyRelease, options: PublishOptions) -> None:
    """UserError unless every adapter in it is of a release that is there and may go out."""
    for domain, member in family.domains.items():
        release = own_release(domain)
        if release.key != member.release:
            raise UserError(
                f"{family.name} is not published: {domain} was released anew since; run "
                f"`./inv release-family --name {family.name}`"
            )
        need_publishable(f"{family.name}, {domain}", release, options)
