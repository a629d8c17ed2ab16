"""A cache with room holds what transformers' own holds, and the model computes the same from it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from shared.evaluate.models.device import CACHE_ROOM
from shared.evaluate.models.roomy_cache import RoomyLayer, roomy


@pytest.fixture(params=["smollm3", "qwen2"])
def model(few: Callable[[str], Path], request: pytest.FixtureRequest) -> Any:
    return AutoModelForCausalLM.from_pretrained(few(request.param)).eval()


@torch.inference_mode()
def walked(model: Any, cache: Any) -> list[torch.Tensor]:
    """Logits of a prompt, of it copied for three rows, of two of those, and of a cut text."""
    found, ids = [], torch.arange(40, 60)[None]

    def read(ids: torch.Tensor, held: Any) -> None:
        found.append(model(ids, past_key_values=held).logits)

    read(ids, cache)
    rows = copy.deepcopy(cache)
    rows.batch_repeat_interleave(3)
    for step in range(CACHE_ROOM + 3):
        read(torch.tensor([[5 + step], [9], [13]]), rows)
    rows.batch_select_indices(torch.tensor([2, 0]))
    for step in range(3):
        read(torch.tensor([[7], [11 + step]]), rows)
    cache.crop(-5)
    read(torch.tensor([[3, 4]]), cache)
    return found


def test_every_step_is_that_of_transformers_own(model: Any) -> None:
    own, ours = DynamicCache(config=model.config), roomy(DynamicCache(config=model.config))
    pairs = list(zip(walked(model, own), walked(model, ours), strict=True))
    assert all(torch.equal(theirs, mine) for theirs, mine in pairs)
    assert any(isinstance(layer, RoomyLayer) for layer in ours.layers)
    for theirs, mine in zip(own.layers, ours.layers, strict=True):
        assert torch.equal(theirs.keys, mine.keys) and torch.equal(theirs.values, mine.values)


def test_a_token_is_written_where_there_is_room_and_nothing_is_copied(model: Any) -> None:
    cache = roomy(DynamicCache(config=model.config))
    places = []
    with torch.inference_mode():
        for _ in range(CACHE_ROOM):
            model(torch.tensor([[5]]), past_key_values=cache)
            places.append(cache.layers[0].keys.data_ptr())
    assert len(set(places)) == 1
