"""Environment variables that a library would stumble over: one sentence that names the variable.

>>> network_mistake({"HTTPS_PROXY": "proxy:8080"})
'HTTPS_PROXY=proxy:8080: an address begins with http:// or https://'
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

NUMBERS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
"""huggingface_hub takes int() of them while it is imported."""
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
SOCKS = ("socks5", "socks5h")
FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def number_mistake(environment: Mapping[str, str] = os.environ) -> str | None:
    """The first variable that is read as a whole number and is none."""
    for name in NUMBERS:
        if name in environment and not environment[name].strip().isdecimal():
            return f"{name}={environment[name]}: must be a whole number of seconds"
    return None


def network_mistake(environment: Mapping[str, str] = os.environ) -> str | None:
    """The first variable with which no request can be made."""
    for name in PROXIES:
        for spelled in (name, name.lower()):
            if why := _address_mistake(environment.get(spelled, ""), SOCKS):
                return f"{spelled}={without_password(environment[spelled])}: {why}"
    if why := _address_mistake(environment.get("HF_ENDPOINT", "")):
        return f"HF_ENDPOINT={without_password(environment['HF_ENDPOINT'])}: {why}"
    for name in TOKENS:
        if not environment.get(name, "").isascii():
            return f"{name}: a token has only ASCII characters; copy it again"
    for name in FILES:
        if environment.get(name) and not Path(environment[name]).exists():
            return f"{name}={environment[name]}: there is no such file or folder"
    return None


def _address_mistake(text: str, others: tuple[str, ...] = ()) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "its port is no number from 0 to 65535"
    if parts.scheme not in ("http", "https", *others):
        return "an address begins with http:// or https://"
    if not host:
        return "an address names a host"
    if parts.scheme in SOCKS and not importlib.util.find_spec("socksio"):
        return "a SOCKS proxy needs a package that is not installed; run `pip install socksio`"
    return None


def without_password(text: str) -> str:
    """An address as it may be shown: `https://***@host` where it names who is asking."""
    before, at, host = text.rpartition("@")
    scheme, parts, _ = before.partition("://")
    return (f"{scheme}://***@{host}" if parts else f"***@{host}") if at else text


def is_offline() -> bool:
    """Whether the Hub's client was told not to ask it, as that client reads the variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
