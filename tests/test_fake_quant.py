"""The fake-quant bench measures what a recipe changes, and shows no other figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.fake_quant import (
    PROMPT,
    RUNNING,
    WINDOW,
    Part,
    Row,
    compared,
    dequantised_model,
    parts_of,
    render,
    texts,
)
from shared.base.manifest import Manifest, Measurement
from shared.base.stage import StageResult
from shared.evaluate.models.chat import Chat
from shared.olive.quantise.packing import dequantized
from shared.source.model import load_model
from tests.test_gptq import IDS, Checkpoint, calibrated

Tiny = Callable[[str], Path]


def test_the_parent_is_at_no_distance_from_itself_and_a_quantised_model_is(
    tiny: Tiny, tmp_path: Path
) -> None:
    parent = load_model(tiny("llama"), "float32")
    folder = calibrated(tiny("llama"), tmp_path / "q")
    model = dequantised_model(tiny("llama"), folder)
    part = Part(list(IDS), 3)
    found, again = compared(parent, {"same": parent, "q": model}, [part, part])
    np.testing.assert_allclose(found["q"]["kl"], again["q"]["kl"], atol=1e-6)
    assert len(found["q"]["kl"]) == len(IDS) - 3
    assert np.abs(found["same"]["kl"]).max() < 1e-5 and not found["same"]["more"].any()
    assert found["q"]["kl"].mean() > 0.01 and found["q"]["more"].any()
    checkpoint, name = Checkpoint(folder), "model.layers.1.mlp.down_proj.weight"
    written = dequantized(checkpoint.blocks(checkpoint.state[name]))
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, written)


def test_a_text_is_read_with_its_answers_and_without(embedded: Path) -> None:
    text = texts(None)["own legal"]
    both = parts_of(Chat(embedded), text, 300)
    assert all(part.first == 1 and len(part.ids) == WINDOW for part in both[RUNNING])
    assert 300 <= sum(len(part.ids) for part in both[RUNNING]) < 300 + WINDOW
    assert sum(len(part.ids) - part.first for part in both[PROMPT]) >= 300
    assert min(part.first for part in both[PROMPT]) > 100, "the prompt is not scored"


def test_the_table_shows_what_was_read_and_says_what_was_not(tmp_path: Path) -> None:
    rows = [
        Row("{}", text, RUNNING, 254, (1.25, 0.03), (kl, 0.04))
        for text, kl in (("own legal", 0.1), ("public legal", 0.3))
    ]
    figures = {"bits": Measurement(value=4.5), "cpu": Measurement(value=12.0)}
    made = Manifest(
        stage="fake-quant", key="k", inputs={}, settings={}, tools={}, outputs={}, facts={},
        measurements=figures, wall_seconds=99.0, peak_rss_bytes=2 * 10**9, finished="",
    )  # fmt: skip
    text = render(rows, {"{}": StageResult(tmp_path, made, False)})
    assert "| `{}` | 0.200 ± 0.028 | not read | 1.250 ± 0.021 | not read | 4.500 | 12 s |" in text
    assert "| public legal | running text | 254 | `{}` | 0.300 ± 0.040 | 1.250 ± 0.030 |" in text
