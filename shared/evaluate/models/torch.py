"""PyTorch on the CPU: greedy answers of 16-bit weights, several prompts at a time.

Computed in float32 where the weights are under 2 GB, else in bfloat16, which is what fits. What all
prompts begin with is read once, and its cache handed to every batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from shared.evaluate.models.answer import Answer, common_prefix, room, unanswerable
from shared.evaluate.models.chat import Chat, stop_ids
from shared.evaluate.models.grammar import Masks
from shared.evaluate.reference import dtype_of
from shared.evaluate.scoring.verdict import is_complete

BATCH = 8


class SixteenBit:
    """A loaded model folder: safetensors only, and none of its code is run."""

    def __init__(self, folder: Path) -> None:
        logging.disable_progress_bar()
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype_of(folder)),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        self.chat = Chat(folder)
        self._stop = stop_ids(folder, self.chat)
        self._context = int(self._model.config.max_position_embeddings)

    @torch.inference_mode()
    def answers(
        self, prompts: Sequence[Sequence[int]], limit: int, schema: str | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """(index, greedy answer) of each prompt, each as soon as it is there, longest batches last.

        Stops as shared.evaluate.models.genai does; `schema`: see shared.evaluate.models.grammar.
        """
        masks = self._masks(schema) if schema else None
        prefix = common_prefix(prompts)
        cache = self._read(prefix) if prefix else None
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        fitting = [index for index in order if self._room(prompts[index], limit)]
        for index in order[len(fitting) :]:
            yield index, unanswerable(len(prompts[index]))
        for start in range(0, len(fitting), BATCH):
            batch = fitting[start : start + BATCH]
            rows = _Rows(self, [list(prompts[i]) for i in batch], prefix, cache, masks)
            for row, answer in rows.run([self._room(prompts[i], limit) for i in batch]):
                yield batch[row], answer

    def _room(self, prompt: Sequence[int], limit: int) -> int:
        return room(len(prompt), limit, self._context)

    def is_answered(self, ids: list[int]) -> bool:
        """Whether a stop token or a complete JSON object has come."""
        if ids[-1] in self._stop:
            return True
        last = self.chat.tokenizer.decode(ids[-1:])
        return ("}" in last or "`" in last) and is_complete(self.chat.text(ids))

    def step(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        """Logits [rows, vocab] float32 after the last of `ids` [rows, tokens]; `cache` grows."""
        return (
            self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )

    def new_cache(self) -> Any:
        return DynamicCache(config=self._model.config)

    def _masks(self, schema: str) -> Masks:
        width = int(self._model.get_output_embeddings().weight.shape[0])
        return Masks(self.chat.tokenizer, width, self._stop, schema)

    def _read(self, prefix: list[int]) -> Any:
        cache = self.new_cache()
        ids = torch.tensor([prefix])
        self.step(ids, torch.ones_like(ids), torch.arange(len(prefix))[None], cache)
        return cache


class _Rows:
    """One batch: [prefix][padding][the rest of the prompt][answer], a row each."""

    def __init__(
        self,
        model: SixteenBit,
        prompts: list[list[int]],
        prefix: list[int],
        cache: Any,
        masks: Masks | None,
    ) -> None:
        self.model, self.prompts, self.masks = model, prompts, masks
        self.rows = list(range(len(prompts)))
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.matchers = masks.start(len(prompts)) if masks else []
        rest = [prompt[len(prefix) :] for prompt in prompts]
        width = max(map(len, rest))
        self.ids = torch.tensor([[0] * (width - len(r)) + r for r in rest])
        self.mask = torch.tensor(
            [[1] * len(prefix) + [0] * (width - len(r)) + [1] * len(r) for r in rest]
        )
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, len(prefix) :]
        self.cache = copy.deepcopy(cache) if prefix else model.new_cache()
        if prefix:
            self.cache.batch_repeat_interleave(len(prompts))

    def run(self, limits: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """(row, answer) as rows end, each after `limits` tokens at most; rows that have ended are
        dropped from the batch."""
        began = time.perf_counter()
        logits = self.model.step(self.ids, self.mask, self.positions, self.cache)
        prefilled = time.perf_counter()
        share = (prefilled - began) / len(self.prompts)
        for count in range(1, max(limits) + 1):
            self._choose(logits)
            ended = [self._has_ended(place, count, limits) for place in range(len(self.rows))]
            decoding = (time.perf_counter() - prefilled) / len(self.prompts)
            for row in [row for row, end in zip(self.rows, ended, strict=True) if end]:
                yield row, self._answer(row, share, decoding)
            if all(ended):
                return
            if any(ended):
                self._keep([place for place, end in enumerate(ended) if not end])
            last = torch.tensor([[self.answers[row][-1]] for row in self.rows])
            self.mask = torch.cat([self.mask, torch.ones_like(last)], dim=1)
            self.positions = self.positions[:, -1:] + 1
            logits = self.model.step(last, self.mask, self.positions, self.cache)

    def _choose(self, logits: Any) -> None:
        if self.masks:
            self.masks.apply(self.matchers, logits)
        for place, token in enumerate(logits.argmax(-1).tolist()):
            self.answers[self.rows[place]].append(int(token))
            if self.masks:
                self.matchers[place].consume_token(int(token))

    def _has_ended(self, place: int, count: int, limits: Sequence[int]) -> bool:
        row = self.rows[place]
        return count == limits[row] or self.model.is_answered(self.answers[row])

    def _answer(self, row: int, prefill: float, decode: float) -> Answer:
        ids = self.answers[row]
        return Answer(self.model.chat.text(ids), len(self.prompts[row]), ids, prefill, decode)

    def _keep(self, places: list[int]) -> None:
        kept = torch.tensor(places)
        self.rows = [self.rows[place] for place in places]
        self.matchers = [self.matchers[place] for place in places] if self.masks else []
        self.mask, self.positions = self.mask[kept], self.positions[kept]
        self.cache.batch_select_indices(kept)
