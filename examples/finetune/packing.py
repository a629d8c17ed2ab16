"""Many examples in one row, the prompt once: exactly the loss of one example a row, at its speed.

Every example of a domain begins with the same tokens: the system prompt. In a pack they stand once;
behind them each example sees the prompt and itself, never its neighbours, and counts its positions
on from the prompt's end. So a pack's loss is the loss of its examples alone (a test holds them
together), and the prompt's few hundred tokens are read once for ten examples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface

from shared.domain.records import Record
from shared.evaluate.models.chat import Chat, common_length


@dataclass(frozen=True)
class Example:
    """Token ids of the whole prompt, and of the answer with its end-of-turn token."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Pack:
    """One row. Shapes: ids, positions [1, n]; the first `shared` tokens are the common prompt.

    `own` [examples, longest]: where each example's own tokens stand in the row, `is_own` which of them
    are not padding. `predicts` [m]: the positions whose next token belongs to an answer; `targets` [m]:
    that token; `weights` [m]: 1 / (examples · the answer's length): each example counts the same.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    shared: int
    own: torch.Tensor
    is_own: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def encode(chat: Chat, system: str, record: Record) -> Example:
    """The record as check asks it, with the answer that would be right."""
    answer = json.dumps(record.gold, ensure_ascii=False)
    ids = chat.tokenizer.encode(answer, add_special_tokens=False)
    return Example(chat.prompt_ids(system, record.input), [*ids, *chat.ending])


def pack(examples: Sequence[Example]) -> Pack:
    """Put examples with a common beginning into one row."""
    shared = _common(examples)
    ids, positions = list(examples[0].prompt[:shared]), list(range(shared))
    predicts: list[int] = []
    weights: list[float] = []
    rows: list[torch.Tensor] = []
    for example in examples:
        own = [*example.prompt[shared:], *example.answer[:-1]]
        first = len(ids) + len(example.prompt) - shared - 1
        predicts += range(first, first + len(example.answer))
        weights += [1 / (len(examples) * len(example.answer))] * len(example.answer)
        rows.append(torch.arange(len(ids), len(ids) + len(own)))
        ids += own
        positions += range(shared, shared + len(own))
    own_tokens = pad_sequence(rows, batch_first=True, padding_value=-1)
    return Pack(
        torch.tensor([ids]),
        torch.tensor([positions]),
        shared,
        own_tokens.clamp(min=0),
        own_tokens >= 0,
        torch.tensor(predicts),
        torch.tensor([token for example in examples for token in example.answer]),
        torch.tensor(weights),
    )


def _common(examples: Sequence[Example]) -> int:
    """Tokens that all prompts begin with; every example keeps one of its own at least."""
    return common_length([example.prompt[:-1] for example in examples])


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pack: Pack,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """A pack's attention by its parts: the prompt on itself, each example on the prompt and itself.

    Signature and shapes as transformers' AttentionInterface has them: query, key, value
    [1, heads, n, head size], out [1, n, heads, head size].
    """
    shared, group = pack.shared, query.shape[1] // key.shape[1]
    first = slice(None), slice(None), slice(shared)
    keys, values = (states[first].repeat_interleave(group, 1) for states in (key, value))
    prompt = scaled_dot_product_attention(query[first], keys, values, is_causal=True, scale=scaling)
    own = _own_attention(query[0], key[0], value[0], pack, scaling)
    return torch.cat([prompt.transpose(1, 2)[0], own[pack.is_own]])[None], None


def _own_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, scaling: float
) -> torch.Tensor:
    """Each example on the prompt and itself: [heads, n, size] → [examples, longest, heads, size].

    Written out: the heads that share a key, and all examples, read the prompt in one product, and
    nothing is repeated for them; scaled_dot_product_attention's backward took twice as long."""
    shared, (_, longest), kv = pack.shared, pack.own.shape, len(key)
    rows = query.unflatten(0, (kv, -1))[:, :, pack.own].transpose(1, 2).flatten(2, 3)
    keys, values = key[:, pack.own], value[:, pack.own]  # [kv, examples, longest, size]
    later = (
        torch.ones(longest, longest, dtype=torch.bool).triu(1).repeat(rows.shape[2] // longest, 1)
    )
    of_prompt = (rows.flatten(1, 2) @ key[:, :shared].mT).unflatten(1, rows.shape[1:3])
    of_own = (rows @ keys.mT).masked_fill(later, -torch.inf)
    shares = torch.softmax(torch.cat([of_prompt, of_own], -1) * scaling, -1)
    read = (shares[..., :shared].flatten(1, 2) @ value[:, :shared]).unflatten(1, rows.shape[1:3])
    read = read + shares[..., shared:] @ values  # [kv, examples, group · longest, size]
    return read.unflatten(2, (-1, longest)).permute(1, 3, 0, 2, 4).flatten(2, 3)


AttentionInterface.register("packed", packed_attention)
AttentionMaskInterface.register("packed", lambda *_, **__: None)
