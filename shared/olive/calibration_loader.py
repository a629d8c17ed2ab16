"""Olive's data interface to token ids that `shared.olive.calibration_text` wrote; Olive loads this."""

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
def docintel_tokens(tokens: str, row: int | None = None, **_: Any) -> Tokens:
    """The dataset of a tokens.json; with `row` the texts one after the other, in rows of so many
    tokens, of which the last is dropped where it is not full."""
    texts = json.loads(Path(tokens).read_text())
    return Tokens(rows_of(texts, row) if row else texts)


def rows_of(texts: list[list[int]], row: int) -> list[list[int]]:
    """All texts as one, cut into rows of equal length; one row of all of it where it is shorter."""
    stream = [token for text in texts for token in text]
    starts = range(0, max(len(stream) - row, 0) + 1, row)
    return [stream[start : start + row] for start in starts]
