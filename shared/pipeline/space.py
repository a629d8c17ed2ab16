"""The site as a static Space of the Hub: sent by the same transaction as a model.

>>> publish_space(["legal"], PublishOptions(org="acme"))
Published(repo_id='acme/docintel', url='https://huggingface.co/spaces/acme/docintel', version='v1', ...)

A Space holds the page alone; its models are those that were published, each at its commit, a family
too. So what a gate or a licence keeps from being published is in no Space either.
"""

import time
from collections.abc import Sequence

from huggingface_hub import HfApi

from shared.base import paths
from shared.base.errors import UserError
from shared.base.hashing import files_below, sha256_file, sha256_files, sha256_json
from shared.base.progress import say
from shared.domain.defaults import read_defaults
from shared.domain.domain import load_domain
from shared.hub.client import single_tries
from shared.hub.files import Order
from shared.hub.names import organisation
from shared.hub.publish import Plan, Published, plan, publish
from shared.hub.remote import need_public
from shared.hub.retries import Hub, Sleep
from shared.pipeline.publication import PublishOptions, need_published, published_domains
from shared.pipeline.site import runtime, write_site


def publish_space(
    domains: Sequence[str] = (),
    options: PublishOptions | None = None,
    *,
    families: Sequence[str] = (),
    sleep: Sleep = time.sleep,
) -> Published:
    """Make the Space's main equal to the site of these domains (default: all that were published) and
    of these families, each as hf:org/name@commit.

    UserError, with nothing sent, where one of them is not published or not for everybody to read.
    """
    order, repository = _order(domains, families, options or PublishOptions(), sleep)
    done = publish(order, repository, sleep=sleep)
    say(
        f"      {'unchanged on the Hub' if done.unchanged else 'published'}: {done.url} {done.version}"
    )
    return done


def plan_space(
    domains: Sequence[str] = (),
    options: PublishOptions | None = None,
    *,
    families: Sequence[str] = (),
) -> Plan:
    """What publish_space would do; nothing is changed on the Hub, nor here outside of build/."""
    return plan(*_order(domains, families, options or PublishOptions(), time.sleep))


def _order(
    domains: Sequence[str], families: Sequence[str], options: PublishOptions, sleep: Sleep
) -> tuple[Order, str]:
    """The site in build/space, and where it goes."""
    for family in families:
        if not family.startswith("hf:"):
            raise UserError(
                f"--family: {family}: a Space has the page alone; publish the family, and name it as "
                "hf:org/name@commit"
            )
    names = published_domains() if families and not domains else need_published(domains)
    folder = paths.build() / "space"
    for placed in write_site(folder, names, families=families, hub=True):
        model, _, revision = placed.where.partition("@")
        with single_tries():
            need_public(Hub(HfApi(token=False), model, sleep=sleep), revision)
    settings = load_domain(names[0]).chain.publish if names else read_defaults()[1].publish
    order = Order(
        folder,
        key=sha256_json(sha256_files(folder, files_below(folder)))[:16],
        title="DocIntel page",
        private=options.private,
        overwrite=options.overwrite,
        repo_type="space",
        public=frozenset(map(sha256_file, runtime())),
    )
    return order, f"{organisation(settings, options.org)}/{settings.space}"
