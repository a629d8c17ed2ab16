"""Chats as token ids, and the answers that come out of them; needs no model and no runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from shared.source.tokenizer import Tokenizer

WORTH_KEEPING = 16
"""A common beginning shorter than this many tokens is not worth a second pass."""


class Chat(Tokenizer):
    """A folder's tokenizer and chat template."""

    def tokenizer_json(self) -> str:
        """The file that a page reads too."""
        return (self._folder / "tokenizer.json").read_text("utf-8")


@dataclass(frozen=True)
class Answer:
    """The output for one prompt; seconds are wall time, lengths count tokens.

    What all prompts begin with is read once, and its seconds are divided among all answers; in a batch
    a step's among the rows that are still in it: all answers' together are what they took. A prompt
    that does not fit into the model's context has an empty answer.

    `forced`: the places of its tokens that the model was not asked for (shared.evaluate.models.forced).
    """

    text: str
    prompt_tokens: int
    output_ids: list[int]
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    forced: list[int] = field(default_factory=list)

    @property
    def model_runs(self) -> int:
        """How often the model ran for it, the prompt's run included: once a token asked for."""
        return len(self.output_ids) - len(self.forced)

    @property
    def decoded(self) -> int:
        """How many tokens `decode_seconds` are for: all from the second that was asked for."""
        forced, count = set(self.forced), len(self.output_ids)
        asked = [place for place in range(count) if place not in forced]
        return count - asked[1] if len(asked) > 1 else 0


def room(prompt_tokens: int, limit: int, context: int) -> int:
    """How many tokens may follow a prompt: `limit`, or what the context still holds; 0 if nothing."""
    return max(0, min(limit, context - prompt_tokens))


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def prompt_prefix(chat: Chat, system: str | None) -> list[int]:
    """The token ids that every question under one system prompt begins with, as page/prompt.js has
    them: a run of the model of their own, whatever else is asked."""
    one, other = (chat.prompt_ids(system, text) for text in ("0", "a"))
    return list(one[: common_length([one, other])])


def cut_at(prompt: Sequence[int], prefix: Sequence[int]) -> list[int]:
    """What of the prefix a prompt begins with, less its last token; [] if too few (page/decode.js)."""
    length = min(common_length([prompt, prefix]), len(prompt) - 1)
    return list(prompt[: length if length >= WORTH_KEEPING else 0])


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The token ids that all prompts begin with, less each prompt's last token; [] if too few."""
    length = common_length([prompt[:-1] for prompt in prompts])
    return list(prompts[0][:length]) if len(prompts) > 1 and length >= WORTH_KEEPING else []
