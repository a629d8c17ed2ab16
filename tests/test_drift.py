"""What quantised layers have lost, those after them make up for; without the option nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shared.base.errors import RungFailed
from shared.base.hashing import files_below, sha256_files
from shared.olive.quantise import layerwise
from shared.olive.quantise.drift import MakeUp, Streams, quantise_towards
from shared.olive.quantise.gptq import Format
from shared.olive.quantise.layer_files import LayerFiles
from shared.olive.quantise.layerwise import quantize_decoder
from shared.olive.quantise.packing import Blocks
from shared.source.model import load_model
from tests.test_calibration_resumed import IN_LAYER_3, PER_LAYER, World
from tests.test_gptq import TEXTS, calibrated, correlated

Tiny = Callable[[str], Path]
MAKE_UP = MakeUp(1.0)


class Watched(LayerFiles):
    """Remembers what the last layer passes on."""

    def write(self, blocks: dict[str, Blocks], hidden: Sequence[torch.Tensor] = ()) -> None:
        super().write(blocks, hidden)
        self.last = hidden or self.last


def last_hidden(folder: Path, work: Path, make_up: MakeUp) -> torch.Tensor:
    """What the quantised last layer passes on, of all texts one after the other."""
    files = Watched(work)
    quantize_decoder(
        load_model(folder), TEXTS, lambda _: Format(), files, lambda _: None, make_up=make_up
    )
    streams = 2 if make_up.share else 1
    return torch.cat(list(files.last[: len(files.last) // streams]), dim=1)


@pytest.mark.parametrize("at_once", [1, 512], ids=["a text a pass", "several"])
@pytest.mark.parametrize("architecture", ["llama", "smollm3", "phi3"])
def test_the_last_layers_squared_error_falls_by_more_than_a_tenth(
    architecture: str, at_once: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layerwise, "AT_ONCE", at_once)
    folder = tiny(architecture)
    exact = load_model(folder, "float32")
    last: list[torch.Tensor] = []
    exact.model.layers[-1].register_forward_hook(lambda _, __, out: last.append(out))
    with torch.inference_mode():
        for ids in TEXTS:
            exact(torch.tensor([ids]), use_cache=False)

    def error(make_up: MakeUp) -> float:
        found = last_hidden(folder, tmp_path / f"{make_up.share}", make_up)
        return float((found - torch.cat(last, dim=1)).square().sum())

    assert error(MAKE_UP) < 0.9 * error(MakeUp(0.0))


class Branch(nn.Module):
    """A layer that adds one product, `scale` times, to what it is given."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(128, 160), nn.Linear(160, 128), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(torch.tanh(self.up(x)))


@torch.inference_mode()
def error_left(scale: float, make_up: MakeUp) -> float:
    """Squared error of what `Branch` passes on, for what drifted inputs have lost before it; nothing is
    rounded."""
    torch.manual_seed(0)
    layer, exact = Branch(scale), correlated()
    drifted = exact + 0.1 * exact.roll(1, dims=1)
    linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
    streams = Streams([drifted], [exact], [{}])
    (wanted,) = quantise_towards(layer, linears, streams, make_up, lambda *_: None)
    return float((layer(drifted) - wanted).square().sum())


def test_the_residual_streams_loss_is_made_up_for_where_an_output_is_added_to_it() -> None:
    nothing = error_left(1.0, MakeUp(1e-9))
    assert error_left(1.0, MakeUp(1.0, 0.01)) < error_left(1.0, MakeUp(0.5, 0.01)) < 0.8 * nothing


def test_an_output_that_is_scaled_before_it_is_added_gets_only_its_own_loss_back() -> None:
    assert error_left(0.01, MakeUp(1.0, 0.01)) == pytest.approx(
        error_left(0.01, MakeUp(1e-9)), rel=0.1
    )


def hashes(folder: Path) -> dict[str, str]:
    return sha256_files(folder, files_below(folder))


def test_a_share_of_0_gives_the_bytes_that_no_option_gives(tiny: Tiny, tmp_path: Path) -> None:
    plain = calibrated(tiny("llama"), tmp_path / "plain")
    off = calibrated(tiny("llama"), tmp_path / "off", make_up=0.0, make_up_damp=0.7)
    on = calibrated(tiny("llama"), tmp_path / "on", make_up=1.0)
    assert hashes(plain) == hashes(off) != hashes(on)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"make_up": 1.5}, "olive.json: make_up: 1.5: only 0 to 1"),
        ({"make_up": -0.1}, "olive.json: make_up: -0.1: only 0 to 1"),
        ({"make_up": 1.0, "make_up_damp": 0.0}, "olive.json: make_up_damp: 0: only more than 0"),
    ],
)
def test_what_is_out_of_range_is_refused(
    settings: dict[str, Any], sentence: str, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(RungFailed, match=sentence):
        calibrated(tiny("llama"), tmp_path / "q", **settings)


def test_a_killed_calibration_goes_on_with_both_streams(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layerwise, "AT_ONCE", 1)
    world = World(tiny("llama"), tmp_path)
    world.settings = {"make_up": 1.0}
    world.die_in(IN_LAYER_3)
    assert world.go_on() == (2 * PER_LAYER + 1, ["calibration goes on at layer 3 of 4"])


def test_another_share_is_another_recipe(tiny: Tiny, tmp_path: Path) -> None:
    world = World(tiny("llama"), tmp_path)
    world.die_in(IN_LAYER_3)
    world.settings = {"make_up": 0.5}
    assert world.go_on() == (4 * PER_LAYER + 1, [])
