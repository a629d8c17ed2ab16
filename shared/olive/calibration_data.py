"""Olive's data interface to token ids that `shared.olive.calibration` wrote; Olive loads this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from olive.data.registry import Registry


class Tokens(torch.utils.data.Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """({input_ids, attention_mask} [tokens] int64, labels) of each text."""

    def __init__(self, texts: list[list[int]]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, number: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        ids = torch.tensor(self._texts[number])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids


@Registry.register_dataset("docintel_tokens")
def docintel_tokens(tokens: str, **_: Any) -> Tokens:
    """The dataset of a tokens.json."""
    return Tokens(json.loads(Path(tokens).read_text()))
