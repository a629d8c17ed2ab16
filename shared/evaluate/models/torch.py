"""PyTorch: 16-bit weights answer several prompts at a time, or decode a given text.

What all prompts begin with is read once, and its cache handed to every batch.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from shared.base.processes import give_back_memory
from shared.evaluate.models.chat import Answer, Chat, common_prefix, room
from shared.evaluate.models.device import (
    CACHE_BYTES,
    LEAST_ROWS,
    ROWS,
    Computing,
    computing,
    load_on,
)
from shared.evaluate.models.masks import Masks

LARGE = 1_000_000_000
"""Weights, from which on a batch's memory is given back: looking for it takes a moment."""
STEPS = 32
"""After which a batch's memory is given back: each makes a new, longer cache of every layer."""
TOKENS_AT_ONCE = 1024
"""Of all rows' prompts, so that a long text's activations take no memory worth a word."""


class TorchModel:
    """A loaded model folder; `ids`: the text that `feed` has read so far, which the cache holds."""

    def __init__(self, folder: Path, how: Computing | None = None) -> None:
        """`how`: what shared.evaluate.models.device finds best for this folder if None."""
        self.how = how or computing(folder)
        self._model = load_on(folder, self.how)
        self.chat = Chat(folder)
        self.context_length = int(self._model.config.max_position_embeddings)
        self.ids: list[int] = []
        self.stop = self.chat.stop
        self._cache = DynamicCache()

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens of the text."""
        if length == 0:
            self._cache = DynamicCache()
        elif length < len(self.ids):
            self._cache.crop(length - len(self.ids))  # a negative number: that many are removed
        del self.ids[length:]

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), vocab] float32 after each of `ids`, which continue the text so far."""
        out = self._model(self.tensor([ids]), past_key_values=self._cache, use_cache=True)
        self.ids += ids
        return np.asarray(out.logits[0].float().cpu().numpy())

    @torch.inference_mode()
    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        grammar: str | None = None,
        free: Mapping[int, Answer] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, greedy answer) of each prompt, each as soon as it is there, longest batches last.

        Stops as shared.evaluate.models.genai does; `grammar`: see shared.evaluate.models.masks. `free`:
        answers given without it. One that keeps to the grammar all the same is the answer under it:
        what was likeliest was allowed at every step.
        """
        masks = Masks(self.chat.tokenizer_json(), self.stop, grammar) if grammar else None
        given = free if masks and free else {}
        kept = {i: a for i, a in given.items() if masks and masks.allow(a.output_ids)}
        for index, answer in kept.items():
            yield index, replace(answer, prefill_seconds=0.0, decode_seconds=0.0)
        left = [index for index in range(len(prompts)) if index not in kept]
        order = sorted(left, key=lambda index: len(prompts[index]))
        fitting = [index for index in order if self._room(prompts[index], limit)]
        prefix, began = common_prefix([prompts[index] for index in left]), time.perf_counter()
        cache = self._read(prefix) if prefix else None
        share = (time.perf_counter() - began) / max(1, len(fitting))
        for index in order[len(fitting) :]:
            yield index, Answer("", len(prompts[index]), [])
        for batch in self._batches(fitting, prompts, limit):
            rows = _Rows(self, [list(prompts[i]) for i in batch], prefix, cache, masks)
            for row, answer in rows.run([self._room(prompts[i], limit) for i in batch], share):
                yield batch[row], answer
            del rows
            self.tidy()

    def tidy(self) -> None:
        """Give back what caches left between what lives longer; of a small model it is no matter."""
        if self._model.num_parameters() > LARGE:
            give_back_memory()

    def _batches(
        self, order: Sequence[int], prompts: Sequence[Sequence[int]], limit: int
    ) -> Iterator[list[int]]:
        """`order` in pieces of LEAST_ROWS to ROWS, as the cache has room for rows of the longest."""
        batch: list[int] = []
        for index in order:
            rows = int(CACHE_BYTES / (self._cell_bytes() * (len(prompts[index]) + limit)))
            if len(batch) >= min(ROWS, max(LEAST_ROWS, rows)):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _cell_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        config = self._model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * head
        return int(numbers * (4 if self.how.dtype == "float32" else 2))

    def tensor(self, values: Any) -> Any:
        return torch.tensor(values, device=self.how.device)

    def _room(self, prompt: Sequence[int], limit: int) -> int:
        return room(len(prompt), limit, self.context_length)

    def step(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        """Logits [rows, vocab] float32 after the last of `ids` [rows, tokens]; `cache` grows.
        `mask` is of the text before them, too.

        The last position is picked by its index, which copies it: of a view, as an integer gives it,
        torch multiplies a batch by a copy of the head for each row, 7 GB of a 3B model.
        """
        width, before = max(1, TOKENS_AT_ONCE // len(ids)), mask.shape[1] - ids.shape[1]
        for start in range(0, ids.shape[1], width):
            part = ids[:, start : start + width]
            out = self._model(
                input_ids=part,
                attention_mask=mask[:, : before + start + width],
                position_ids=positions[:, start : start + width],
                past_key_values=cache,
                logits_to_keep=self.tensor([part.shape[1] - 1]),
            )
        return out.logits[:, -1].float()

    def new_cache(self) -> Any:
        return DynamicCache(config=self._model.config)

    def _read(self, prefix: list[int]) -> Any:
        cache = self.new_cache()
        ids = self.tensor([prefix])
        self.step(ids, torch.ones_like(ids), self.tensor([range(len(prefix))]), cache)
        return cache


class _Rows:
    """One batch: [prefix][padding][the rest of the prompt][answer], a row each."""

    def __init__(
        self,
        model: TorchModel,
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
        self.ids = model.tensor([[0] * (width - len(r)) + r for r in rest])
        self.mask = model.tensor(
            [[1] * len(prefix) + [0] * (width - len(r)) + [1] * len(r) for r in rest]
        )
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, len(prefix) :]
        self.cache = copy.deepcopy(cache) if prefix else model.new_cache()
        if prefix:
            self.cache.batch_repeat_interleave(len(prompts))

    def run(self, limits: Sequence[int], share: float) -> Iterator[tuple[int, Answer]]:
        """(row, answer) as rows end, each after `limits` tokens at most; rows that have ended are
        dropped from the batch. `share`: a row's of the seconds that reading the prefix took."""
        began = time.perf_counter()
        logits = self.model.step(self.ids, self.mask, self.positions, self.cache)
        prefilled = time.perf_counter()
        prefill, decode, last = share + (prefilled - began) / len(self.prompts), 0.0, prefilled
        for count in range(1, max(limits) + 1):
            self._choose(logits)
            ended = [self._has_ended(place, count, limits) for place in range(len(self.rows))]
            now = time.perf_counter()
            decode, last = decode + (now - last) / len(self.rows), now
            for row in [row for row, end in zip(self.rows, ended, strict=True) if end]:
                yield row, self._answer(row, prefill, decode)
            if all(ended):
                return
            if count % STEPS == 0:
                self.model.tidy()
            if any(ended):
                self._keep([place for place, end in enumerate(ended) if not end])
            chosen = self.model.tensor([[self.answers[row][-1]] for row in self.rows])
            self.mask = torch.cat([self.mask, torch.ones_like(chosen)], dim=1)
            self.positions = self.positions[:, -1:] + 1
            logits = self.model.step(chosen, self.mask, self.positions, self.cache)

    def _choose(self, logits: Any) -> None:
        if self.masks:
            forbidden = self.masks.forbidden(self.matchers, logits.shape[-1])
            logits.masked_fill_(self.model.tensor(forbidden), -torch.inf)
        for place, token in enumerate(logits.argmax(-1).tolist()):
            self.answers[self.rows[place]].append(int(token))
            if self.masks:
                self.matchers[place].accept_token(int(token))

    def _has_ended(self, place: int, count: int, limits: Sequence[int]) -> bool:
        row = self.rows[place]
        return count == limits[row] or self.answers[row][-1] in self.model.stop

    def _answer(self, row: int, prefill: float, decode: float) -> Answer:
        ids = self.answers[row]
        return Answer(self.model.chat.text(ids), len(self.prompts[row]), ids, prefill, decode)

    def _keep(self, places: list[int]) -> None:
        kept = self.model.tensor(places)
        self.rows = [self.rows[place] for place in places]
        self.matchers = [self.matchers[place] for place in places] if self.masks else []
        self.mask, self.positions = self.mask[kept], self.positions[kept]
        self.cache.batch_select_indices(kept)
