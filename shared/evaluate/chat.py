"""From a chat to token ids, with the tokenizer and the chat template of a packaged folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


class Chat:
    """A package's tokenizer; needs no model."""

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
