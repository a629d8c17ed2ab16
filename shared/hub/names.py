"""The name a release has on the Hub: org and pattern from fallback.toml, {domain} and {base} put in."""

from __future__ import annotations

import os

from huggingface_hub.utils import HFValidationError, validate_repo_id

from shared.domain import Domain
from shared.errors import UserError

ORG_VARIABLE = "DOCINTEL_HUB_ORG"


def repository_name(domain: Domain, base: str) -> str:
    """`org/name` for a release of this domain made from the model `base` (`org/model`).

    DOCINTEL_HUB_ORG overrides the organisation. UserError where the result is no valid name.
    """
    settings = domain.chain.publish
    where = f"domains/{domain.name}/fallback.toml: publish.name"
    try:
        name = settings.name.format(domain=domain.name, base=base.split("/")[-1]).lower()
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{where}: only {{domain}} and {{base}} can stand in it ({error})"
        ) from None
    full = f"{os.environ.get(ORG_VARIABLE) or settings.org}/{name}"
    try:
        validate_repo_id(full)
    except HFValidationError as error:
        raise UserError(f"{where}: {error}") from None
    return full
