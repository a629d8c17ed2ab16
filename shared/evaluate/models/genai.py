"""onnxruntime-genai on the CPU: greedy answers and greedy token ids from a packaged folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime_genai as og

from shared.evaluate.models.answer import Answer, common_prefix, room, unanswerable
from shared.evaluate.models.chat import Chat
from shared.evaluate.models.session import genai_options
from shared.evaluate.scoring.verdict import is_complete


class Answerer:
    """A loaded model. `dtype` picks onnx/model_<dtype>.onnx; the folder's own default if None."""

    def __init__(self, folder: Path, dtype: str | None = None) -> None:
        config = og.Config(str(folder))
        config.clear_providers()
        decoder: dict[str, Any] = {"filename": f"onnx/model_{dtype}.onnx"} if dtype else {}
        if options := genai_options():
            decoder["session_options"] = options
        if decoder:
            config.overlay(json.dumps({"model": {"decoder": decoder}}))
        self._model = og.Model(config)
        self.chat = Chat(folder)
        self.context_length = _context(folder)

    def answers(
        self, prompts: Sequence[Sequence[int]], limit: int, schema: str | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """(index, greedy answer) of each prompt; stops at a stop token, at a complete JSON object,
        or after `limit` tokens. What all prompts begin with is read once.

        `schema`: a JSON Schema that every token must keep to (genai's guidance, by llguidance).
        """
        prefix = common_prefix(prompts)
        length = min(max(map(len, prompts), default=0) + limit, self.context_length)
        generator = og.Generator(self._model, self._parameters(length, schema))
        if prefix:
            generator.append_tokens(list(prefix))
        for index, prompt in enumerate(prompts):
            most = room(len(prompt), limit, self.context_length)
            if not most:
                yield index, unanswerable(len(prompt))
                continue
            started = time.perf_counter()
            generator.rewind_to(len(prefix))
            generator.append_tokens(list(prompt[len(prefix) :]))
            yield index, self._answer(generator, len(prompt), most, self._is_answered, started)

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answer:
        """The greedy answer to one prompt."""
        return self._generate(prompt, max_new_tokens, self._is_answered)

    def greedy_ids(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Exactly the greedy ids, stop token included, for comparison with another runtime."""
        return self._generate(prompt, new_tokens, lambda ids: False).output_ids

    def _is_answered(self, ids: list[int]) -> bool:
        """Decoding the whole text each time is quadratic: look only where the last token closes."""
        last = self.chat.tokenizer.decode(ids[-1:])
        return ("}" in last or "`" in last) and is_complete(self.chat.text(ids))

    def _parameters(self, length: int, schema: str | None = None) -> og.GeneratorParams:
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=length, do_sample=False)
        if schema:
            parameters.set_guidance("json_schema", schema)
        return parameters

    def _generate(
        self, prompt: Sequence[int], limit: int, enough: Callable[[list[int]], bool]
    ) -> Answer:
        length = min(len(prompt) + limit, self.context_length)
        generator = og.Generator(self._model, self._parameters(length))
        started = time.perf_counter()
        generator.append_tokens(list(prompt))
        return self._answer(generator, len(prompt), limit, enough, started)

    def _answer(
        self,
        generator: og.Generator,
        prompt_tokens: int,
        limit: int,
        enough: Callable[[list[int]], bool],
        started: float,
    ) -> Answer:
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
        return Answer(self.chat.text(ids), prompt_tokens, ids, first - started, end - first)


def _context(folder: Path) -> int:
    """genai_config.json may name more positions than the graph has rotations for; config.json's
    are what PyTorch goes by too."""
    named = json.loads((folder / "genai_config.json").read_text())["model"]["context_length"]
    known = json.loads((folder / "config.json").read_text()).get("max_position_embeddings", named)
    return min(int(named), int(known))
