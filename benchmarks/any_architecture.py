"""A world whose rungs take a model of any architecture: small ones stand where large belong."""

import re
import shutil
from pathlib import Path

from shared.base import paths
from shared.domain.defaults import DEFAULTS_FILE


def take_any_architecture(domains: Path) -> None:
    """Take `model_type` out of the defaults of this folder of domains, where every rung has it from."""
    toml = domains / DEFAULTS_FILE
    if not toml.exists():
        shutil.copy(paths.REPOSITORY / "domains" / DEFAULTS_FILE, toml)
    toml.write_text(re.sub(r'model_type = "\w+",? ?', "", toml.read_text("utf-8")), "utf-8")


def answer_at_most(domain: Path, tokens: int) -> None:
    """Give a domain [check] max_new_tokens, in the place of one of its own."""
    settings = domain / "fallback.toml"
    own = re.compile(r"^\[check\].*\nmax_new_tokens = \d+\n", re.MULTILINE)
    text = own.sub("", settings.read_text(encoding="utf-8"))
    settings.write_text(f"{text}\n[check]\nmax_new_tokens = {tokens}\n", encoding="utf-8")
