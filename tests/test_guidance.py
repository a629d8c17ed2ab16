"""PyTorch's answers are held to the schema without a compiler on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from shared.evaluate.models.grammar import Masks, grammar

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}


def never(*_: object, **__: object) -> None:
    raise AssertionError("torch.compile needs a C++ compiler, which a fresh machine may lack")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_what_continues_the_object_is_left(
    embedded: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch, "compile", never)
    tokenizer = AutoTokenizer.from_pretrained(embedded, local_files_only=True)
    masks = Masks(tokenizer, 49_152, [2], grammar(SCHEMA))
    logits = torch.zeros(2, 49_152, dtype=dtype)
    masks.apply(masks.start(2), logits)
    for row in logits:
        left = torch.isfinite(row).nonzero().flatten().tolist()
        words = [tokenizer.decode([token]) for token in left]
        assert words and all('{"a": "'.startswith(word) for word in words)
