"""onnxruntime-genai on the CPU: greedy answers and greedy token ids from a packaged folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime_genai as og

from shared.evaluate.answers import is_complete
from shared.evaluate.chat import Chat


@dataclass(frozen=True)
class Answer:
    """What came out for one prompt; seconds are wall time, prompt and output lengths in tokens."""

    text: str
    prompt_tokens: int
    output_ids: list[int]
    prefill_seconds: float
    decode_seconds: float


class Answerer:
    """A loaded model. `dtype` picks onnx/model_<dtype>.onnx; the folder's own default if None."""

    def __init__(self, folder: Path, dtype: str | None = None) -> None:
        config = og.Config(str(folder))
        config.clear_providers()
        if dtype:
            decoder = {"decoder": {"filename": f"onnx/model_{dtype}.onnx"}}
            config.overlay(json.dumps({"model": decoder}))
        self._model = og.Model(config)
        self.chat = Chat(folder)
        context = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
        self.context_length = int(context)

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answer:
        """Greedy answer; stops at a stop token, at a complete JSON object, or at the limit."""
        return self._generate(prompt, max_new_tokens, self._is_answered)

    def greedy_ids(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Exactly the greedy ids, stop token included, for comparison with another runtime."""
        return self._generate(prompt, new_tokens, lambda ids: False).output_ids

    def _is_answered(self, ids: list[int]) -> bool:
        """Decoding the whole text each time is quadratic: look only where the last token closes."""
        last = self.chat.tokenizer.decode(ids[-1:])
        return ("}" in last or "`" in last) and is_complete(self._text(ids))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.chat.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _generate(
        self, prompt: Sequence[int], limit: int, enough: Callable[[list[int]], bool]
    ) -> Answer:
        parameters = og.GeneratorParams(self._model)
        length = min(len(prompt) + limit, self.context_length)
        parameters.set_search_options(max_length=length, do_sample=False)
        generator = og.Generator(self._model, parameters)
        started = time.perf_counter()
        generator.append_tokens(list(prompt))
        ids: list[int] = []
        first = started
        while not generator.is_done() and len(ids) < limit:
            generator.generate_next_token()
            ids.append(int(generator.get_next_tokens()[0]))
            if len(ids) == 1:
                first = time.perf_counter()
            if enough(ids):
                break
        end = time.perf_counter()
        return Answer(self._text(ids), len(prompt), ids, first - started, end - first)
