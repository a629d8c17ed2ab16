"""A folder's tokenizer, chat template and stop tokens: read in one place, tried before a build.

Templates are rendered by transformers in its sandbox (jinja2's ImmutableSandboxedEnvironment).
"""

from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json

TEMPLATE = "chat_template.jinja"
SYSTEM, USER = "Answer in JSON.", "Is this text in the prompt?"


def load_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer of a model folder; RungFailed with one sentence where it is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers' Rust errors, KeyErrors of a cut file: no common base
        where = paths.shown(folder / "tokenizer.json")
        raise RungFailed(f"{where}: no tokenizer can be loaded from it: {_words(error)}") from None


def chat_text(tokenizer: Any, system: str | None, user: str, answer: str | None = None) -> str:
    """A chat as the folder's template renders it, up to the answer's opening, or with the answer.

    Reasoning is off where the template knows `enable_thinking`: an answer is one JSON object.
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return str(
        tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=answer is None,
            tokenize=False,
            enable_thinking=False,
        )
    )


def stop_tokens(folder: Path, tokenizer: Any) -> dict[int, str]:
    """The ids that end an answer, each with the file and key that names it."""
    found: dict[int, str] = {}
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        for token in value if isinstance(value, list) else [value]:
            if token is not None:
                found.setdefault(token, f"{name}: eos_token_id")
    if tokenizer.eos_token_id is not None:
        found.setdefault(tokenizer.eos_token_id, "tokenizer_config.json: eos_token")
    return found


def refuse_unusable_tokenizer(folder: Path, rows: int) -> None:
    """RungFailed unless the template renders a chat of ours and every token has one of `rows` rows."""
    tokenizer = load_tokenizer(folder)
    here = folder / (TEMPLATE if (folder / TEMPLATE).is_file() else "tokenizer_config.json")
    where = f"{paths.shown(here)}: chat_template"
    try:
        text = chat_text(tokenizer, SYSTEM, USER)
    except Exception as error:  # jinja2's errors, and whatever a template's own code provokes
        words = f"cannot render a system prompt and a question: {_words(error)}"
        raise RungFailed(f"{where}: {words}") from None
    for part, words in ((SYSTEM, "the system prompt"), (USER, "what the user says")):
        if part not in text:
            raise RungFailed(f"{where}: leaves out {words}")
    if len(tokenizer) > rows:
        raise RungFailed(
            f"{paths.shown(folder / 'tokenizer.json')}: {len(tokenizer)} tokens, but the model has "
            f"only {rows} rows"
        )
    for token, place in stop_tokens(folder, tokenizer).items():
        if not (isinstance(token, int) and 0 <= token < rows):
            raise RungFailed(
                f"{paths.shown(folder)}/{place}: {token!r} is no token of a vocabulary of {rows}"
            )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
