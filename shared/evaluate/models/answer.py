"""What comes out for one prompt, and what prompts have in common; shared by both runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

WORTH_KEEPING = 16
"""A common beginning shorter than this many tokens is not worth a second pass."""


@dataclass(frozen=True)
class Answer:
    """What came out for one prompt; seconds are wall time, prompt and output lengths in tokens.

    In a batch the seconds are the whole batch's, divided among its answers.
    """

    text: str
    prompt_tokens: int
    output_ids: list[int]
    prefill_seconds: float
    decode_seconds: float


def room(prompt_tokens: int, limit: int, context: int) -> int:
    """How many tokens may follow a prompt: `limit`, or what the context still holds; 0 if nothing."""
    return max(0, min(limit, context - prompt_tokens))


def unanswerable(prompt_tokens: int) -> Answer:
    """The empty answer to a prompt that does not fit into the model's context."""
    return Answer("", prompt_tokens, [], 0.0, 0.0)


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The token ids that all prompts begin with, less each prompt's last token; [] if too few."""
    if len(prompts) < 2:
        return []
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    shared = [column[0] for column in takewhile(lambda ids: len(set(ids)) == 1, columns)]
    return shared if len(shared) >= WORTH_KEEPING else []
