"""Held-out records as token windows: passages for fidelity, rows of one length for browser parity,
the ends of prompts for overflow and the bench."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from shared.domain.records import Record
from shared.evaluate.distribution import TruncatedDistribution
from shared.evaluate.models.chat import common_length

Item = TypeVar("Item")

FEWEST = 4
"""Records that are compared however long they are: from one no error can be told, from two hardly."""


class ChatTokenizer(Protocol):
    """shared.evaluate.models.chat.Chat."""

    tokenizer: Any

    @property
    def ending(self) -> list[int]: ...

    def prompt_ids(self, system: str | None, user: str) -> list[int]: ...


@dataclass(frozen=True)
class HeldOut:
    """Held-out text: a system prompt and (input, answer) pairs; `origin` names the set in words."""

    system: str
    pairs: tuple[tuple[str, str], ...]
    origin: str


def sample(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """`count` of the items, or all, evenly spread over them, the same ones each time."""
    count = min(count, len(items))
    return tuple(items[i * len(items) // count] for i in range(count))


def held_out(system: str, records: Iterable[Record], origin: str = "") -> HeldOut:
    """The inputs of the records with the answers that would be right."""
    pairs = ((r.input, json.dumps(r.gold, ensure_ascii=False)) for r in records)
    return HeldOut(system, tuple(pairs), origin)


@dataclass(frozen=True)
class Passage:
    """One record's token ids. `first`: the first that is scored; `answer`: where the answer begins.

    Token i is predicted at position i − 1; `predicted` is of the positions that predict `first` to
    the end.
    """

    ids: np.ndarray
    first: int
    answer: int
    predicted: TruncatedDistribution | None = None


def passages_of(
    chat: ChatTokenizer, text: HeldOut, tokens: int, context: int | None = None
) -> list[Passage]:
    """Pairs evenly spread over the text, as many as have `tokens` scored tokens, and FEWEST at least.
    Each is read to its end, where the answer is, but not past the model's `context`; none whose common
    beginning fills that."""
    chats = _chats(chat, text)
    shared = _instructions([prompt for prompt, _ in chats])
    if context is not None and shared >= context:
        return []
    whole = [
        Passage(np.array([*prompt, *answer, *chat.ending][:context], np.int64), shared, len(prompt))
        for prompt, answer in chats
    ]
    for count in range(min(FEWEST, len(whole)), len(whole)):
        chosen = sample(whole, count)
        if sum(len(p.ids) - p.first for p in chosen) >= tokens:
            return list(chosen)
    return whole


def windows_of(chat: ChatTokenizer, text: HeldOut, tokens: int, longest: int) -> list[list[int]]:
    """Windows of the held-out chats, all of one length and no two alike, spread over all of them.

    The opening that all chats share is left out, the rest joined in the records' order and cut into
    consecutive windows of `longest` tokens, as llama-perplexity does; as many as `tokens` positions
    need are taken, at even distances. Fewer where there is less text.
    """
    chats = list(dict.fromkeys((*prompt, *answer) for prompt, answer in _chats(chat, text)))
    shared = common_length(chats) if len(chats) > 1 else 0
    stream = [token for ids in chats for token in ids[shared:]]
    length = min(longest, len(stream))
    starts = range(0, len(stream) - length + 1, max(length, 1))
    windows = list(dict.fromkeys(tuple(stream[at : at + length]) for at in starts))
    return [list(row) for row in sample(windows, math.ceil(tokens / max(length, 1)))]


def prompt_end(chat: ChatTokenizer, system: str, record: Record, tokens: int) -> list[int]:
    """The last `tokens` tokens of the record's prompt: all prompts end alike."""
    return list(chat.prompt_ids(system, record.input)[-tokens:])


def inputs_of(chat: ChatTokenizer, records: Iterable[Record]) -> list[int]:
    """All inputs, each as a chat without a system prompt, as one text."""
    return [token for record in records for token in chat.prompt_ids(None, record.input)]


def _chats(chat: ChatTokenizer, text: HeldOut) -> list[tuple[list[int], list[int]]]:
    """The token ids of each pair's prompt and answer."""
    return [
        (
            chat.prompt_ids(text.system, question),
            list(chat.tokenizer.encode(answer, add_special_tokens=False)),
        )
        for question, answer in text.pairs
    ]


def _instructions(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; at least 1 (something must predict the first scored
    token) and less than the shortest; a single prompt's half counts as instructions."""
    shortest = min(map(len, prompts)) - 1
    same = common_length(prompts) if len(prompts) > 1 else shortest // 2
    return max(1, min(same, shortest))
