"""Environment variables that libraries read when they are loaded; set before the first import."""

from __future__ import annotations

import os

VARIABLES = {
    "OLIVE_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""OMP_WAIT_POLICY: PyTorch's threads sleep while they wait for each other instead of spinning. On two
cores with one other busy process that is 58 tokens/s in place of 10 (8 answers at once, 135M values,
float32); on an idle machine it costs a quarter (80 before)."""


def set_variables() -> None:
    """Set what the user has not set."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
