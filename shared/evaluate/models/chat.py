"""Chats as token ids, and the answers that come out of them; needs no model and no runtime."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from shared.evaluate.scoring.verdict import is_complete

WORTH_KEEPING = 16
"""A common beginning shorter than this many tokens is not worth a second pass."""


class Chat:
    """A folder's tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._folder = folder
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )

    def tokenizer_json(self) -> str:
        """The file that a page reads too, or what transformers makes of a folder without one."""
        file = self._folder / "tokenizer.json"
        return (
            file.read_text("utf-8") if file.exists() else self.tokenizer.backend_tokenizer.to_str()
        )

    def prompt_ids(self, system: str | None, user: str) -> list[int]:
        """Token ids of the system prompt, if any, the user's text, and the answer's opening."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """The ids as text, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def is_answered(self, ids: list[int]) -> bool:
        """Whether the ids are one whole JSON object. Decoding all of them each time would be
        quadratic, so that is done only where the last token can close one."""
        last = self.tokenizer.decode(ids[-1:])
        return ("}" in last or "`" in last) and is_complete(self.text(ids))


def stop_ids(folder: Path, chat: Chat) -> list[int]:
    """The ids that end an answer: generation_config.json's, config.json's and the tokenizer's."""
    found: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        found += value if isinstance(value, list) else [value]
    found.append(chat.tokenizer.eos_token_id)
    return sorted({int(i) for i in found if i is not None})


@dataclass(frozen=True)
class Answer:
    """The output for one prompt; seconds are wall time, lengths count tokens.

    In a batch the seconds are the whole batch's, divided among its answers. A prompt that does not
    fit into the model's context has an empty answer.
    """

    text: str
    prompt_tokens: int
    output_ids: list[int]
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


def room(prompt_tokens: int, limit: int, context: int) -> int:
    """How many tokens may follow a prompt: `limit`, or what the context still holds; 0 if nothing."""
    return max(0, min(limit, context - prompt_tokens))


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The token ids that all prompts begin with, less each prompt's last token; [] if too few."""
    length = common_length([prompt[:-1] for prompt in prompts])
    return list(prompts[0][:length]) if len(prompts) > 1 and length >= WORTH_KEEPING else []
