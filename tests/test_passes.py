"""Several texts in one pass: what each is given is what it would be given alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.olive.quantise import layerwise
from shared.olive.quantise.forward import forward
from shared.olive.quantise.layerwise import _first_inputs
from shared.source.model import load_model
from tests.tiny import ARCHITECTURES

Tiny = Callable[[str], Path]
TEXTS = [[(7 * place + 11 * text) % 97 for place in range(1 + 13 * text)] for text in range(9)]
TOGETHER = sum(map(len, TEXTS))


def passed_on(
    model: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> tuple[int, torch.Tensor]:
    """How many passes were made, and what the first layer passes on of all texts."""
    monkeypatch.setattr(layerwise, "AT_ONCE", at_once)
    hidden, arguments = _first_inputs(model, TEXTS)
    found = map(partial(forward, model.model.layers[0]), hidden, arguments)
    return len(hidden), torch.cat(list(found), dim=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_do_not_see_each_other(
    architecture: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny(architecture), "float32")
    alone, expected = passed_on(model, monkeypatch, 1)
    several, found = passed_on(model, monkeypatch, TOGETHER + 1)
    assert (alone, several) == (len(TEXTS), 1)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_model_that_takes_no_positions_reads_one_after_the_other(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny("llama"), "float32")
    real = model.forward
    monkeypatch.setattr(model, "forward", lambda input_ids, use_cache: real(input_ids))
    assert passed_on(model, monkeypatch, TOGETHER + 1)[0] == len(TEXTS)


@pytest.mark.parametrize("hides", [True, False])
def test_a_mask_that_lets_texts_see_each_other_is_found(
    hides: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny("llama"), "float32")
    layer = model.model.layers[0]

    def spoilt(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        mask = named["attention_mask"]
        seen = None if mask is None else mask if hides else torch.ones_like(mask).tril()
        return given, named | {"attention_mask": seen}

    layer.register_forward_pre_hook(spoilt, with_kwargs=True)
    passes = passed_on(model, monkeypatch, TOGETHER + 1)[0]
    assert passes == (1 if hides else len(TEXTS))


def test_a_long_text_is_read_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny("llama"), "float32")
    assert passed_on(model, monkeypatch, max(map(len, TEXTS)))[0] > 2
    monkeypatch.setattr(layerwise, "AT_ONCE", 30)
    hidden, _ = _first_inputs(model, [[1], [2] * 30, [3]])
    assert [states.shape[1] for states in hidden] == [1, 30, 1]
