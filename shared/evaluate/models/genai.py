"""onnxruntime-genai on the CPU: greedy answers of a packaged folder."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from shared.base.cpu import allotted_cores, physical_cores
from shared.evaluate.models.chat import Answer, Chat, common_prefix, cut_at, room
from shared.evaluate.models.forced import Forced
from shared.evaluate.models.onnx import SPINNING


def genai_options() -> dict[str, Any]:
    """session_options of a genai_config.json, as `onnx.session_options`.

    onnxruntime-genai by itself takes half of what the system calls a CPU, which is one of two on a
    machine whose cores have one thread each: half of its speed.
    """
    if count := allotted_cores():
        return {"intra_op_num_threads": count, SPINNING: "0"}
    return {"intra_op_num_threads": physical_cores()}


class GenaiModel:
    """A loaded package. `dtype` picks onnx/model_<dtype>.onnx; the folder's own default if None."""

    def __init__(self, folder: Path, dtype: str | None = None) -> None:
        config = og.Config(str(folder))
        config.clear_providers()
        decoder: dict[str, Any] = {"filename": f"onnx/model_{dtype}.onnx"} if dtype else {}
        decoder["session_options"] = genai_options()
        config.overlay(json.dumps({"model": {"decoder": decoder}}))
        self.model = og.Model(config)
        self.chat = Chat(folder)
        model = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
        stop = model["eos_token_id"]
        self.stop: list[int] = stop if isinstance(stop, list) else [stop]
        self.context_length = int(model["context_length"])

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        grammar: str | None = None,
        *,
        prefix: Sequence[int] | None = None,
        forcing: bool = True,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, greedy answer) of each prompt; ends at a stop token or after `limit` tokens, as
        in the page and the card's snippets. What all prompts begin with is read once, in a run of its
        own: `prefix`, else what these have in common.

        `grammar`: what every token must keep to, by masks (shared.evaluate.models.masks); what it
        leaves no choice about is not asked for (shared.evaluate.models.forced), but where `forcing` is
        False: then every token is.
        """
        fitting = [prompt for prompt in prompts if room(len(prompt), limit, self.context_length)]
        prefix, began = common_prefix(fitting) if prefix is None else prefix, time.perf_counter()
        parameters = og.GeneratorParams(self.model)
        length = min(max(map(len, prompts), default=0) + limit, self.context_length)
        parameters.set_search_options(max_length=length, do_sample=False)
        forced = (
            Forced.under(grammar, self.chat, self.stop, on=forcing and None) if grammar else None
        )
        generator = og.Generator(self.model, parameters)
        kept = cut_at(fitting[0], prefix) if fitting else []
        if kept:
            generator.append_tokens(kept)
        share = (time.perf_counter() - began) / max(1, len(prompts))
        for index, prompt in enumerate(prompts):
            most = room(len(prompt), limit, self.context_length)
            if not most:
                yield index, Answer("", len(prompt), [])
                continue
            started, begins = time.perf_counter() - share, cut_at(prompt, prefix)
            if begins == kept:
                generator.rewind_to(len(kept))
            else:
                kept = begins
                generator.rewind_to(0)
                if kept:
                    generator.append_tokens(kept)
            rest = list(prompt[len(kept) :])
            if forced:
                told = self._held(generator, rest, most, started, forced)
            else:
                told = self._free(generator, rest, most, started)
            yield index, replace(told, prompt_tokens=len(prompt))

    def answer(self, prompt: Sequence[int], limit: int) -> Answer:
        """The greedy answer to one prompt."""
        return next(self.answers([prompt], limit))[1]

    def _free(self, generator: Any, prompt: list[int], limit: int, started: float) -> Answer:
        ids: list[int] = []
        first = started
        generator.append_tokens(prompt)
        while not generator.is_done() and len(ids) < limit:
            generator.generate_next_token()
            ids.append(int(generator.get_next_tokens()[0]))
            if len(ids) == 1:
                first = time.perf_counter()
        seconds = (first - started, time.perf_counter() - first)
        return Answer(self.chat.text(ids), 0, ids, *seconds)

    def _held(
        self, generator: Any, prompt: list[int], limit: int, started: float, forced: Forced
    ) -> Answer:
        (matcher,), first = forced.masks.start(1), started
        fed, ids, unasked = prompt, list[int](), list[int]()
        while len(ids) < limit and not (ids and ids[-1] in self.stop):
            generator.append_tokens(fed)
            scores = generator.get_logits()[0, -1]
            scores[forced.masks.forbidden([matcher], len(scores))[0]] = -np.inf
            fed = forced.turn(matcher, int(scores.argmax()), limit - len(ids))
            if not ids:
                first = time.perf_counter()
            unasked += range(len(ids) + 1, len(ids) + len(fed))
            ids = ids + fed
        seconds = (first - started, time.perf_counter() - first)
        return Answer(self.chat.text(ids), 0, ids, *seconds, unasked)
