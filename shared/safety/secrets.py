"""A file that looks like a secret never leaves the machine: by its name, or by what it says.

>>> refuse_secrets(Path("models/legal/webgpu"), ["README.md", "tokenizer.json"])

The patterns are detect-secrets' for tokens of known form (private keys, AWS, GitHub, Slack, …) and
the Hub's own. Its guesses by entropy are left out: a release is full of hashes.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

from shared.base import paths
from shared.base.errors import UserError

NAMES = (
    *(".env", ".env.*", "*.env", "token", ".netrc", "_netrc", ".npmrc", ".pypirc", ".pgpass"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks"),
    *("*.kdbx", "credentials", "credentials.json", ".htpasswd", ".git-credentials"),
)
NOT_TOKENS = (
    *("IP Public", "Public IP (ipv4)", "Secret Keyword", "Basic Auth Credentials"),
    *("Cloudant Credentials", "SoftLayer Credentials"),
    *("IBM Cloud IAM Key", "IBM COS HMAC Credentials"),
)
"""Guesses rather than forms: an address, the word `password`, a vendor's name before a long word."""
HUB_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_(?:oauth|jwt)_[\w.=-]{16,}|(?:hf|api_org)_[A-Za-z0-9]{30,}\b)"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY")
LARGEST_TEXT = 64_000_000
SMALL = 1_000_000
"""Bytes. A binary file up to this size is searched whole; of a larger one, its first SAMPLE bytes."""
SAMPLE = 8192


def refuse_secrets(folder: Path, names: Iterable[str]) -> None:
    """UserError naming the first file that must not be uploaded, and never what it says."""
    for name in names:
        if found := secret_in(folder / name):
            where = paths.shown(folder / name)
            raise UserError(f"{where}: looks like a secret ({found}); remove it from the folder")


def secret_in(path: Path) -> str | None:
    """What kind of secret a file looks like, or None. Of large binary files the beginning is read."""
    if any(fnmatchcase(path.name.lower(), pattern) for pattern in NAMES):
        return "by its name"
    with path.open("rb") as file:
        start = file.read(SAMPLE)
        size = path.stat().st_size
        binary = b"\0" in start or size > LARGEST_TEXT
        content = start if binary and size > SMALL else start + file.read()
    narrow = content.replace(b"\0", b"")  # UTF-16 is ASCII with a NUL beside each letter
    for form in (content, narrow) if binary else (content,):
        if PRIVATE_KEY.search(form):
            return "a private key"
        if found := secret_in_text(form.decode("ascii" if binary else "utf-8", errors="replace")):
            return found
    return None


def secret_in_text(text: str) -> str | None:
    """The same for text: the kind of the first token of a known form in it."""
    if HUB_TOKEN.search(text):
        return "a Hub token"
    for kind, pattern in _patterns():
        if pattern.search(text):
            return kind
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    kinds: dict[str, Any] = get_mapping_from_secret_type_to_class()
    return [
        (kind.lower(), pattern)
        for kind, detector in sorted(kinds.items())
        if issubclass(detector, RegexBasedDetector) and kind not in NOT_TOKENS
        for pattern in detector.denylist
    ]
