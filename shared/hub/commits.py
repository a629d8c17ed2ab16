"""Commits as the Hub names them. A hash from a server ends up in paths and addresses: its form is held.

>>> commit_of(hub, hub.api.model_info("org/name").sha)
'12fd25f77366fa6b3b4b768ec3050bf629f6d5a5'
"""

from __future__ import annotations

import re

from shared.hub.calls import Hub

COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(hub: Hub, sha: str | None) -> str:
    """The hash, if it is one; else one sentence: `../x` would be a folder of the Hub's choice."""
    if not (isinstance(sha, str) and COMMIT.fullmatch(sha)):
        raise hub.failure(f"{hub.host} names {sha!r} as a commit of {hub.repo_id}; that is none")
    return sha
