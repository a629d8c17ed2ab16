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
