"""The name a release has on the Hub: org and pattern from fallback.toml, {domain} and {base} put in."""

from __future__ import annotations

import os

from shared.domain import Domain
from shared.errors import UserError
from shared.hub.publish import repo_id

ORG_VARIABLE = "DOCINTEL_HUB_ORG"


def repository_name(domain: Domain, base: str) -> str:
    """`org/name` for a release of this domain made from the model `base` (`org/model`).

    DOCINTEL_HUB_ORG overrides the organisation. UserError where the result is no valid name.
    """
    settings = domain.chain.publish
    org = os.environ.get(ORG_VARIABLE) or settings.org
    try:
        return repo_id(settings.name, org, domain.name, base)
    except UserError as error:
        raise UserError(f"domains/{domain.name}/fallback.toml: publish.name: {error}") from None
