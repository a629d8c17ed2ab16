"""The 16-bit model of a folder in PyTorch: the one place where its weights become a module."""

from pathlib import Path
from typing import Any

FLOAT32_BELOW_BYTES = 2_000_000_000
"""Smaller weights are computed with in float32, larger ones in bfloat16, which is what fits."""


def compute_dtype(folder: Path) -> str:
    """The floating-point type that predictions are computed in: "float32" or "bfloat16"."""
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    return "float32" if size < FLOAT32_BELOW_BYTES else "bfloat16"


def load_model(folder: Path, dtype: str = "auto") -> Any:
    """The causal language model, in evaluation mode and without gradients.

    Safetensors only, no code of the folder, nothing from the Hub. `dtype`: "auto" keeps the weights'
    own, memory-mapped.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model.eval().requires_grad_(False)
