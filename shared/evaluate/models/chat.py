"""From a chat to token ids and back, with the tokenizer and the chat template of a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


class Chat:
    """A folder's tokenizer; needs no model."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
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
        """What the ids say, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def stop_ids(folder: Path, chat: Chat) -> list[int]:
    """The ids that end an answer: generation_config.json's, config.json's and the tokenizer's."""
    found: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        found += value if isinstance(value, list) else [value]
    found.append(chat.tokenizer.eos_token_id)
    return sorted({int(i) for i in found if i is not None})
