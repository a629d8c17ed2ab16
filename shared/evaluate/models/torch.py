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
    CACHE_ROOM,
    Computing,
    computing,
    load_on,
    rows_at_once,
)
from shared.evaluate.models.forced import Forced
from shared.evaluate.models.roomy_cache import roomy

LARGE = 1_000_000_000
"""Weights, from which on a batch's memory is given back: looking for it takes a moment."""
STEPS = 32
"""After which a batch's memory is given back: by then every layer's cache has been made longer."""
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

        Stops as shared.evaluate.models.genai does, which has `grammar` too. `free`: answers given
        without it. One that keeps to the grammar all the same, and has the forced tokens where they
        would be, is the answer under it: what was likeliest was allowed at every step.
        """
        forced = Forced.under(grammar, self.chat, self.stop) if grammar else None
        given = free if forced and free else {}
        kept = {i: a for i, a in given.items() if forced and forced.writes(a.output_ids)}
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
            limits = [self._room(prompts[i], limit) for i in batch]
            rows = _Rows(self, [list(prompts[i]) for i in batch], prefix, cache, forced, limits)
            for row, answer in rows.run(share):
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
        """`order` in batches, as the cache has room for rows of the longest."""
        batch: list[int] = []
        for index in order:
            cells = len(prompts[index]) + limit + CACHE_ROOM
            if len(batch) >= rows_at_once(self._cell_bytes() * cells):
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
        return roomy(DynamicCache(config=self._model.config))

    def _read(self, prefix: list[int]) -> Any:
        cache = self.new_cache()
        ids = self.tensor([prefix])
        self.step(ids, torch.ones_like(ids), self.tensor([range(len(prefix))]), cache)
        return cache


class _Rows:
    """One batch: [prefix][padding][the rest of the prompt][answer], a row each. Where what is forced is
    longer in one row than in another, there is padding within the answers, too."""

    def __init__(
        self,
        model: TorchModel,
        prompts: list[list[int]],
        prefix: list[int],
        cache: Any,
        forced: Forced | None,
        limits: Sequence[int],
    ) -> None:
        self.model, self.prompts, self.forced, self.limits = model, prompts, forced, limits
        self.rows = list(range(len(prompts)))
        self.matchers = forced.masks.start(len(prompts)) if forced else []
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.unasked: list[list[int]] = [[] for _ in prompts]
        self.cache = copy.deepcopy(cache) if prefix else model.new_cache()
        self.mask = model.tensor([[1] * len(prefix) for _ in prompts]).long()
        self._feed([prompt[len(prefix) :] for prompt in prompts])
        if prefix:
            self.cache.batch_repeat_interleave(len(prompts))

    def run(self, share: float) -> Iterator[tuple[int, Answer]]:
        """(row, answer) as rows end, each after as many tokens as there is room for at most; rows that
        have ended are dropped from the batch. `share`: a row's of the seconds that reading the prefix
        took."""
        began, decode, runs = time.perf_counter(), 0.0, 0
        prefill, last = share, began
        while self.rows:
            ended = [self._has_ended(row) for row in self.rows]
            for row in [row for row, end in zip(self.rows, ended, strict=True) if end]:
                yield row, self._answer(row, prefill, decode)
            if any(ended):
                self._keep([place for place, end in enumerate(ended) if not end])
            if not self.rows:
                return
            logits = self.model.step(self.ids, self.mask, self.positions, self.cache)
            self._feed(self._choose(logits))
            now, runs = time.perf_counter(), runs + 1
            if runs == 1:
                prefill += (now - last) / len(self.rows)
            else:
                decode += (now - last) / len(self.rows)
            last = now
            if runs % STEPS == 0:
                self.model.tidy()

    def _feed(self, tokens: Sequence[Sequence[int]]) -> None:
        """What the next run reads, each row's tokens after their padding."""
        width, tensor = max(map(len, tokens)), self.model.tensor
        self.ids = tensor([[0] * (width - len(ids)) + list(ids) for ids in tokens])
        new = tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in tokens])
        self.mask = torch.cat([self.mask, new], dim=1)
        self.positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]

    def _choose(self, logits: Any) -> list[list[int]]:
        """Every row's likeliest token and what is forced after it, which its answer has then."""
        if self.forced:
            forbidden = self.forced.masks.forbidden(self.matchers, logits.shape[-1])
            logits.masked_fill_(self.model.tensor(forbidden), -torch.inf)
        found = [[int(token)] for token in logits.argmax(-1).tolist()]
        for place, row in enumerate(self.rows):
            if self.forced:
                most = self.limits[row] - len(self.answers[row])
                found[place] = self.forced.turn(self.matchers[place], found[place][0], most)
            begin = len(self.answers[row])
            self.unasked[row] += range(begin + 1, begin + len(found[place]))
            self.answers[row] += found[place]
        return found

    def _has_ended(self, row: int) -> bool:
        ids = self.answers[row]
        return len(ids) == self.limits[row] or (bool(ids) and ids[-1] in self.model.stop)

    def _answer(self, row: int, prefill: float, decode: float) -> Answer:
        ids, read = self.answers[row], len(self.prompts[row])
        text, seconds = self.model.chat.text(ids), (prefill, decode)
        return Answer(text, read, ids, *seconds, self.unasked[row])

    def _keep(self, places: list[int]) -> None:
        kept = self.model.tensor(places).long()
        self.rows = [self.rows[place] for place in places]
        self.matchers = [self.matchers[place] for place in places] if self.forced else []
        self.mask, self.positions, self.ids = (
            rows[kept] for rows in (self.mask, self.positions, self.ids)
        )
        self.cache.batch_select_indices(kept)
