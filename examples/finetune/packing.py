"""Many examples in one row, the prompt once: exactly the loss of one example a row, at its speed.

Every example of a domain begins with the same tokens: the system prompt. In a pack they stand once;
behind them each example sees the prompt and itself, never its neighbours, and counts its positions
on from the prompt's end. So a pack's loss is the loss of its examples alone (a test holds them
together), and the 230 prompt tokens are read once for ten examples of about 110.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shared.domain.records import Record
from shared.evaluate.models.chat import Chat, common_length


@dataclass(frozen=True)
class Example:
    """Token ids of the whole prompt, and of the answer with its end-of-turn token."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Pack:
    """One row. Shapes: ids, positions [1, n]; mask [1, 1, n, n], 0 where seen, else -inf.

    `predicts` [m]: the positions whose next token belongs to an answer; `targets` [m]: that token;
    `weights` [m]: 1 / (examples · the answer's length), so that each example counts the same.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def encode(chat: Chat, system: str, record: Record) -> Example:
    """The record as check asks it, with the answer that would be right."""
    answer = json.dumps(record.gold, ensure_ascii=False)
    ids = chat.tokenizer.encode(answer, add_special_tokens=False)
    return Example(chat.prompt_ids(system, record.input), [*ids, chat.tokenizer.eos_token_id])


def pack(examples: Sequence[Example]) -> Pack:
    """Put examples with a common beginning into one row."""
    shared = _common(examples)
    ids, positions, owner = list(examples[0].prompt[:shared]), list(range(shared)), [0] * shared
    predicts: list[int] = []
    weights: list[float] = []
    for number, example in enumerate(examples, start=1):
        own = [*example.prompt[shared:], *example.answer[:-1]]
        first = len(ids) + len(example.prompt) - shared - 1
        predicts += range(first, first + len(example.answer))
        weights += [1 / (len(examples) * len(example.answer))] * len(example.answer)
        ids += own
        positions += range(shared, shared + len(own))
        owner += [number] * len(own)
    return Pack(
        torch.tensor([ids]),
        torch.tensor([positions]),
        _mask(torch.tensor(owner)),
        torch.tensor(predicts),
        torch.tensor([token for example in examples for token in example.answer]),
        torch.tensor(weights),
    )


def _common(examples: Sequence[Example]) -> int:
    """Tokens that all prompts begin with; every example keeps one of its own at least."""
    return common_length([example.prompt[:-1] for example in examples])


def _mask(owner: torch.Tensor) -> torch.Tensor:
    """A token sees what stands before it, of the prompt (owner 0) and of its own example."""
    n = len(owner)
    earlier = torch.ones(n, n, dtype=torch.bool).tril()
    seen = earlier & ((owner[None] == owner[:, None]) | (owner[None] == 0))
    return torch.zeros(n, n).masked_fill(~seen, float("-inf"))[None, None]
