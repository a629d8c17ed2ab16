"""The name a release has on the Hub: org and pattern from [publish], {domain} and {base} put in."""

import os

from huggingface_hub.utils import validate_repo_id

from shared.base.errors import UserError
from shared.domain.domain import Domain
from shared.domain.settings import PublishSettings

ORG_VARIABLE = "DOCINTEL_HUB_ORG"


def organisation(settings: PublishSettings, org: str | None = None) -> str:
    """`org` where it is given, else DOCINTEL_HUB_ORG, else publish.org."""
    return org or os.environ.get(ORG_VARIABLE) or settings.org


def repository_name(domain: Domain, base: str, org: str | None = None) -> str:
    """`org/name` for a release of this domain made from the model `base` (`org/model`).

    UserError where the result is no valid name.
    """
    settings = domain.chain.publish
    org = organisation(settings, org)
    try:
        return repo_id(settings.name, org, domain.name, base)
    except UserError as error:
        raise UserError(f"{domain.config.place(('publish', 'name'))}: {error}") from None


def repo_id(pattern: str, org: str, domain: str, base: str) -> str:
    """`org/name`: `pattern` with {domain} and the model part of {base}, in lower case.

    >>> repo_id("docintel-{domain}-{base}-webgpu", "acme", "legal", "HuggingFaceTB/SmolLM3-3B")
    'acme/docintel-legal-smollm3-3b-webgpu'
    """
    try:
        name = pattern.format(domain=domain, base=base.split("/")[-1]).lower()
        validate_repo_id(f"{org}/{name}")
    except (KeyError, IndexError, AttributeError):
        raise UserError(f"{pattern!r}: only {{domain}} and {{base}} can stand in it") from None
    except ValueError as error:  # a lone brace; or HFValidationError, which is one too
        raise UserError(f"{pattern!r}: {error}") from None
    return f"{org}/{name}"
