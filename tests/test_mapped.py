"""Large weights stay in their files: what a process keeps of them is bounded, and no result changes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shared.evaluate.models import device
from shared.evaluate.models.device import Computing, load_on, widened
from shared.evaluate.models.mapped import keep_within
from shared.source.weights import SINGLE, load_weights

WIDTH, LAYERS = 2048, 8
LAYER_BYTES = 4 * WIDTH * WIDTH


def mapped_model(folder: Path) -> nn.Sequential:
    """LAYERS square products whose weights are mapped from a file."""
    generator = torch.Generator().manual_seed(1)
    weights = {
        f"{i}.weight": torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        for i in range(LAYERS)
    }
    save_file(weights, folder / SINGLE)
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(LAYERS)))
    for layer, weight in zip(model, load_weights(folder).values(), strict=True):
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return model


def resident() -> int:
    """Bytes of files' pages in this process."""
    return int(psutil.Process().memory_info().shared)


@pytest.mark.parametrize("kept", [0, 3], ids=["none", "three layers"])
def test_a_pass_leaves_no_more_of_the_weights_than_it_may_keep(kept: int, tmp_path: Path) -> None:
    model, text = mapped_model(tmp_path), torch.ones(2, WIDTH)
    whole, before = model(text), resident()
    bounded = keep_within(model, kept * LAYER_BYTES, together=LAYER_BYTES)
    for _ in range(2):
        assert torch.equal(bounded(text), whole)
        assert before - resident() > (LAYERS - kept - 0.5) * LAYER_BYTES


def test_a_model_that_fits_is_left_alone(tmp_path: Path) -> None:
    model = mapped_model(tmp_path)
    keep_within(model, LAYERS * LAYER_BYTES)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_table_that_is_the_head_counts_once(tmp_path: Path) -> None:
    model = mapped_model(tmp_path)
    model[-1].weight = model[0].weight
    keep_within(model, (LAYERS - 1) * LAYER_BYTES)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_what_torch_holds_itself_is_not_lost(tmp_path: Path) -> None:
    model, text = mapped_model(tmp_path), torch.ones(2, WIDTH)
    for layer in model:
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    whole = model(text)
    keep_within(model, 0, together=0)(text)
    assert torch.equal(model(text), whole)


def test_products_that_widen_their_weights_let_them_go_as_well(tmp_path: Path) -> None:
    model, text = widened(mapped_model(tmp_path)), torch.ones(2, WIDTH)
    whole, before = model(text), resident()
    assert torch.equal(keep_within(model, 0, together=LAYER_BYTES)(text), whole)
    assert before - resident() > (LAYERS - 0.5) * LAYER_BYTES


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_large_model_is_loaded_within_its_bound(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mapped_model(tmp_path)
    monkeypatch.setattr(device, "FLOAT32_BELOW_BYTES", 0)
    monkeypatch.setattr(device, "load_model", lambda folder, dtype="auto": model)
    bounds = list[object]()
    monkeypatch.setattr(device, "keep_within", lambda model: bounds.append(model) or model)
    assert load_on(tmp_path, Computing("cpu", dtype)) is model
    assert bounds == [model]
