"""A folder's tokenizer, chat template and stop tokens: read in one place, tried before a build.

Templates are rendered by transformers in its sandbox (jinja2's ImmutableSandboxedEnvironment). What a
document says is text: whoever wrote it may write a control token's name, but never the token.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import loads_strictly, read_json, read_text
from shared.base.text import trimmed
from shared.source.weights import named

TEMPLATE = "chat_template.jinja"
SYSTEM, USER = "Answer in JSON.", "Is this text in the prompt?"
ANSWER = '{"is it": true}'


OPTIONS: dict[str, Any] = {"enable_thinking": False}
"""What a chat template is told, everywhere: an answer is one JSON object, so there is no reasoning."""

THINKS = "<think>"
"""Behind it a reasoning model writes no JSON."""

MARK = re.compile(r"<.+>|\[.+\]", re.DOTALL)
"""How control tokens are spelt that a tokenizer does not call special (Qwen3's `<think>`)."""


class Tokenizer:
    """A folder's tokenizer, chat template and control tokens: chats as token ids, and back."""

    def __init__(self, folder: Path) -> None:
        """RungFailed with one sentence where the folder has none that can be loaded."""
        self._folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.controls = control_tokens(folder)
        self.stop = sorted(stop_tokens(folder, self.tokenizer))

    def prompt_ids(self, system: str | None, user: str) -> list[int]:
        """Token ids of the system prompt, if any, the user's text, and the answer's opening."""
        return self.encode(chat_text(self.tokenizer, system, as_text(user, self.controls)))

    def answered_ids(self, system: str, user: str, answer: str) -> list[int]:
        """The same with an answer and what the template writes after it. Where it writes past answers
        otherwise than it opens new ones (without the empty reasoning), a stop token ends it."""
        user, answer = as_text(user, self.controls), as_text(answer, self.controls)
        opening = chat_text(self.tokenizer, system, user)
        whole = chat_text(self.tokenizer, system, user, answer)
        if whole.startswith(opening + answer):
            return self.encode(whole)
        return [*self.encode(opening), *self.encode(answer), *self.ending]

    @cached_property
    def ending(self) -> list[int]:
        """The token that ends an answer: the one that the template closes it with, else the tokenizer's
        eos, which for Phi-3 ends a text and no answer, else a stop token; empty where there is none."""
        closing, eos = _closing_token(self._folder, self.tokenizer), self.tokenizer.eos_token_id
        return [token for token in (closing, eos, *self.stop) if token is not None][:1]

    def text(self, ids: Sequence[int]) -> str:
        """An answer's ids as text, without the stop tokens; any other control token is seen."""
        kept = [token for token in ids if token not in self.stop]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        """A text's token ids, and no special token around them."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer over a folder's tokenizer.json, as every other runtime reads it.

    `tokenizer_class` is passed over: transformers 5 rebuilds a LlamaTokenizer from its vocabulary, with
    other ids than the file gives. RungFailed with one sentence where there is none.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers' Rust errors, KeyErrors of a cut file: no common base
        where = named(folder / "tokenizer.json")
        raise RungFailed(f"{where}: no tokenizer can be loaded from it: {_words(error)}") from None


def control_tokens(folder: Path) -> list[str]:
    """The added tokens of tokenizer.json that steer a model: special ones, and any spelt <…> or […]."""
    added = read_json(folder / "tokenizer.json").get("added_tokens", [])
    return [
        token["content"]
        for token in added
        if len(token["content"].strip()) > 1
        and (token["special"] or MARK.fullmatch(token["content"]))
    ]


def as_text(text: str, controls: Sequence[str]) -> str:
    """The text without white space at its ends, its lines ended as a page's form ends them, and every
    control token's name written apart: `<|im_end|>` becomes `< |im_end|>`.

    It is then tokenised as any text is, by every runtime, and a template's `trim`, which is another
    one in each, finds nothing to do. shared/webgpu_bench/page/prompt.js does the same, and so do a
    card's snippets.
    """
    text = trimmed(text).replace("\r\n", "\n").replace("\r", "\n")
    for control in controls:
        text = text.replace(control, f"{control[0]} {control[1:]}")
    return text


def has_chat_template(folder: Path) -> bool:
    try:
        return bool(chat_template(folder))
    except RungFailed:
        return False


def chat_template(folder: Path) -> str:
    """The chat template, from chat_template.jinja or tokenizer_config.json; RungFailed if neither."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template: Any = loads_strictly(read_text(folder / "tokenizer_config.json")).get("chat_template")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if not isinstance(template, str):
        where = named(folder / "tokenizer_config.json")
        raise RungFailed(f"{where}: chat_template: missing, and there is no chat_template.jinja")
    return template


def chat_text(tokenizer: Any, system: str | None, user: str, answer: str | None = None) -> str:
    """A chat as the folder's template renders it under OPTIONS, up to the answer's opening, or with
    the answer."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return str(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=answer is None, tokenize=False, **OPTIONS
        )
    )


def stop_tokens(folder: Path, tokenizer: Any) -> dict[int, str]:
    """The ids that end an answer, each with the file and key that names it: those of the configuration
    files, and the control token that the chat template writes after an answer."""
    found: dict[int, str] = {}
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        for token in value if isinstance(value, list) else [value]:
            if token is not None:
                found.setdefault(token, f"{name}: eos_token_id")
    if tokenizer.eos_token_id is not None:
        found.setdefault(tokenizer.eos_token_id, "tokenizer_config.json: eos_token")
    closing = _closing_token(folder, tokenizer)
    if closing is not None:
        found.setdefault(closing, f"{TEMPLATE}: after an answer")
    return found


def _closing_token(folder: Path, tokenizer: Any) -> int | None:
    """The id of the control token that stands right after an answer, if there is one."""
    try:
        after = chat_text(tokenizer, None, USER, ANSWER).partition(ANSWER)[2]
    except Exception:  # a template that takes no answers back: nothing is known of their end
        return None
    after = after.lstrip()
    named = next((c for c in control_tokens(folder) if after.startswith(c)), None)
    return None if named is None else int(tokenizer.convert_tokens_to_ids(named))


def usable_tokenizer(folder: Path) -> Any:
    """The tokenizer, whose template renders a chat of ours; else RungFailed. torch is not imported."""
    tokenizer = load_tokenizer(folder)
    here = folder / (TEMPLATE if (folder / TEMPLATE).is_file() else "tokenizer_config.json")
    where = f"{named(here)}: chat_template"
    try:
        text = chat_text(tokenizer, SYSTEM, USER)
    except Exception as error:  # jinja2's errors, and whatever a template's own code provokes
        words = f"cannot render a system prompt and a question: {_words(error)}"
        raise RungFailed(f"{where}: {words}") from None
    for part, words in ((SYSTEM, "the system prompt"), (USER, "what the user says")):
        if part not in text:
            raise RungFailed(f"{where}: leaves out {words}")
    if text.rstrip().endswith(THINKS):
        raise RungFailed(
            f"{where}: opens each answer with {THINKS}, and no option of ours closes it; end it with "
            "what the model was trained to answer after"
        )
    return tokenizer


def refuse_tokens_beyond(rows: int, folder: Path, tokenizer: Any) -> None:
    """RungFailed unless every token, the stop tokens too, has one of the model's `rows` rows."""
    if len(tokenizer) > rows:
        raise RungFailed(
            f"{named(folder / 'tokenizer.json')}: {len(tokenizer)} tokens, but the model has "
            f"only {rows} rows"
        )
    for token, place in stop_tokens(folder, tokenizer).items():
        if not (isinstance(token, int) and 0 <= token < rows):
            raise RungFailed(
                f"{paths.shown(folder)}/{place}: {token!r} is no token of a vocabulary of {rows}"
            )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
