"""The 16-bit model in PyTorch, fed a given text piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Parent:
    """A model with its cache; `read` is for whoever feeds it to remember what stands there."""

    def __init__(self, folder: Path, dtype: str) -> None:
        """`dtype`: "float32" or "bfloat16", what it is computed in."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        ).eval()
        self._cache: Any = None
        self.read = np.empty(0, np.int64)
        self.rewind(0)

    @property
    def length(self) -> int:
        """How many tokens the cache holds."""
        return int(self._cache.get_seq_length())

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        from transformers import DynamicCache

        if length == 0:
            self._cache = DynamicCache()
        elif length < self.length:
            self._cache.crop(length - self.length)  # a negative number: that many are removed

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), vocab] float32 after each of `ids`, which continue the text so far."""
        import torch

        with torch.inference_mode():
            out = self._model(torch.tensor([ids]), past_key_values=self._cache, use_cache=True)
            return np.asarray(out.logits[0].float().numpy())
