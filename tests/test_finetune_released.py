"""examples/finetune --on-released-base: an adapter that is trained for the 4-bit base that ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.finetune.released import take_released
from examples.finetune.run import TRAINED_ON, Job, finetune
from shared.base.errors import UserError
from shared.evaluate.models.onnx import OnnxDecoder
from shared.source.training import training_details
from tests.test_finetune import Tiny, job, load

__all__ = ["job"]


class TestForTheBaseThatShips:
    def test_the_model_computes_what_the_released_graph_does(
        self, package: Path, few: Tiny
    ) -> None:
        """`package` is the same tiny Qwen2, by the real stages."""
        ids = list(range(5, 45))
        released = take_released(load(few("qwen2")), package)
        with torch.inference_mode():
            found = released(torch.tensor([ids])).logits[0]
            before = load(few("qwen2"))(torch.tensor([ids])).logits[0]
        wanted = torch.from_numpy(
            OnnxDecoder(package / "onnx" / "model_q4.onnx", exact=True).feed(ids)
        )
        size = wanted.abs().max()
        assert (found - wanted).abs().max() < 1e-4 * size < (before - wanted).abs().max()

    def test_another_models_base_is_refused(self, package: Path, tiny: Tiny) -> None:
        with pytest.raises(UserError, match=r"model_q4.onnx: .* it is another's base"):
            take_released(load(tiny("qwen2")), package)

    def test_a_folder_without_one_is_named(self, root: Path, few: Tiny) -> None:
        with pytest.raises(UserError, match=r"`\./inv release-family` makes"):
            take_released(load(few("qwen2")), root)

    def test_its_adapter_says_so_on_the_card(
        self, root: Path, package: Path, few: Tiny, job: Job
    ) -> None:
        shipped = replace(job, base=few("qwen2"), released=package)
        with pytest.raises(UserError, match="say where with --to"):
            finetune(shipped)
        made = finetune(replace(shipped, to=root / "adapter"))
        assert training_details(made)["trained on"] == TRAINED_ON
