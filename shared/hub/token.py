"""The Hub token of this machine: asked for in one place, and kept out of every text that is shown."""

import re

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import OIDCError

from shared.base.errors import UserError


def scrub(text: str) -> str:
    """`text` without tokens: the one in use, and anything that has a Hub token's form; and without
    an address's name and password.

    Also hf_oauth_… and hf_jwt_…, in which dots, dashes and underscores stand.
    """
    try:
        token = get_token()
    except (
        Exception
    ):  # a workload's token is asked for over the network; no log line fails for that
        token = None
    hidden = text.replace(token, "hf_***") if token else text
    hidden = re.sub(r"://[^/\s@]+@", "://***@", hidden)
    return re.sub(r"(?<![A-Za-z0-9])(hf|api_org)_[\w.=-]*\w", r"\1_***", hidden)


def hub_token() -> str:
    """The token of this machine's login; UserError where there is none."""
    try:
        token = get_token()
    except (OIDCError, httpx2.HTTPError) as error:
        raise UserError(f"no Hub token: HF_OIDC_RESOURCE: {scrub(str(error))}") from None
    if not token:
        raise UserError("no Hub token: run `hf auth login` or set HF_TOKEN")
    return token
