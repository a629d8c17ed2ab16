"""What is to be published, and with whose token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.errors import OIDCError

from shared.base.errors import UserError
from shared.hub.calls import scrub


@dataclass(frozen=True)
class Order:
    """What is to be published: `key` names the release, `title` what it is called on the Hub.

    `version`: "1.2.0" is tagged v1.2.0; None takes the next number, v1, v2, … `overwrite` allows
    to replace what others changed on main.
    """

    folder: Path
    key: str
    title: str
    private: bool = False
    version: str | None = None
    overwrite: bool = False


def hub_token() -> str:
    """The token of this machine's login; UserError where there is none."""
    try:
        token = get_token()
    except OIDCError as error:
        raise UserError(f"no Hub token: HF_OIDC_RESOURCE: {scrub(str(error))}") from None
    if not token:
        raise UserError("no Hub token: run `hf auth login` or set HF_TOKEN")
    return token
