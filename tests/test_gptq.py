"""The quantiser of ours: its arithmetic, and that what it writes is what the graph computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.base.errors import RungFailed
from shared.olive.quantise import gptq as module
from shared.olive.quantise.checkpoint import Checkpoint
from shared.olive.quantise.gptq import Format, gptq, inputs_of, search
from shared.olive.quantise.packing import dequantized, pack, unpack
from tests.test_quantised import IDS, build, logits
from tests.tiny import ARCHITECTURES, write_tiny

Tiny = Callable[[str], Path]
TEXTS = [list(IDS), list(IDS[::-1]), [7 * i + 1 for i in range(40)]]


def weight(rows: int = 48, columns: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, columns, generator=generator)


def correlated(columns: int = 128) -> torch.Tensor:
    """Inputs [tokens, columns] that are alike, and large in a few columns, as a decoder's are."""
    generator = torch.Generator().manual_seed(2)
    mixed = torch.randn(400, 20, generator=generator) @ torch.randn(
        20, columns, generator=generator
    )
    mixed[:, :3] *= 12
    return mixed + 0.1 * torch.randn(400, columns, generator=generator)


def error(blocks: Any, w: torch.Tensor, x: torch.Tensor) -> float:
    """‖(W − Ŵ)x‖², what GPTQ makes small."""
    return float(((dequantized(blocks) - w) @ x.t()).square().sum())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [6, 7])
def test_packing_can_be_undone(bits: int, columns: int) -> None:
    codes = torch.randint(0, 2**bits, (5, columns), dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits, columns), codes)


class TestSearch:
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_is_never_worse_than_the_extreme_value(self, symmetric: bool) -> None:
        form, values = Format(4, 32, symmetric), weight(32, 200)
        importance = torch.linspace(0.01, 3, 32)

        def cost(shrink: tuple[float, ...]) -> torch.Tensor:
            scales, zeros = search(values, importance, form, shrink)
            codes = (values / scales + zeros).round().clamp(0, 15)
            return importance @ ((codes - zeros) * scales - values).square()

        plain, searched = cost((1.0,)), cost(module.SHRINK)
        assert (searched <= plain * (1 + 1e-5)).all()
        assert searched.sum() < 0.95 * plain.sum()

    def test_scales_are_float16s(self) -> None:
        """From its largest number to its subnormal ones, as PyTorch rounds them."""
        sizes = 10 ** torch.linspace(-9, 5.3, 3000)
        extremes = torch.cat((weight(1, 3000)[0] * sizes, sizes))
        blocks = torch.zeros(2, 6000).index_put((torch.tensor(0),), extremes)
        scales, _ = search(blocks, torch.ones(2), Format(), (1.0,))
        expected = (-extremes / 8).to(torch.float16).to(torch.float32)
        assert torch.equal(scales, torch.where(expected == 0, 2.0**-24, expected))

    def test_an_all_zero_block_stays_zero(self) -> None:
        blocks = gptq(torch.zeros(2, 64), None, Format())
        assert torch.equal(dequantized(blocks), torch.zeros(2, 64))
        assert torch.isfinite(blocks.scales).all() and (blocks.scales != 0).all()


def as_published(w: torch.Tensor, x: torch.Tensor, form: Format) -> torch.Tensor:
    """The paper's own algorithm in float64: W is updated by rows of the factor of H⁻¹."""
    h, w = (x.t() @ x).double(), w.double().clone()
    h += module.DAMP * h.diagonal().mean() * torch.eye(len(h))
    factor, rounded = torch.linalg.cholesky(torch.linalg.inv(h), upper=True), torch.empty_like(w)
    for column in range(w.shape[1]):
        if column % form.block_size == 0:
            block = w[:, column : column + form.block_size]
            lowest, highest = block.aminmax(dim=1)
            extreme = torch.where(highest > -lowest, highest, lowest)
            scale = (-extreme / form.middle).half().double()
        code = (w[:, column] / scale).round().clamp(-form.middle, form.middle - 1)
        rounded[:, column] = code * scale
        lost = (w[:, column] - rounded[:, column]) / factor[column, column]
        w[:, column + 1 :] -= lost[:, None] * factor[column, column + 1 :]
    return rounded


class TestGptq:
    @pytest.mark.parametrize("bits", [4, 8])
    def test_gives_the_codes_of_the_published_algorithm(self, bits: int) -> None:
        form, w, x = Format(bits), weight(300, 320), correlated(320)
        found = dequantized(gptq(w, inputs_of(x.t() @ x), form, (1.0,)))
        same = found.double() == as_published(w, x, form)
        assert same.all(dim=1).float().mean() > 0.9, "a near tie changes the rest of its row"

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_feedback_lowers_the_error_of_the_outputs(self, symmetric: bool) -> None:
        form, w, x = Format(4, 32, symmetric), weight(), correlated()
        rounded = error(gptq(w, None, form, (1.0,)), w, x)
        assert error(gptq(w, inputs_of(x.t() @ x), form, (1.0,)), w, x) < 0.1 * rounded

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_the_search_lowers_it_further(self, symmetric: bool) -> None:
        generator = torch.Generator().manual_seed(3)
        form, w = Format(4, 32, symmetric), weight()
        x = torch.randn(800, 128, generator=generator)
        x *= torch.linspace(-2, 2, 128).exp()[torch.randperm(128, generator=generator)]
        inputs = inputs_of(x.t() @ x)
        assert error(gptq(w, inputs, form), w, x) < 0.9 * error(gptq(w, inputs, form, (1.0,)), w, x)

    def test_8_bits_are_sixteen_times_finer(self) -> None:
        w, x = weight(), correlated()
        inputs = inputs_of(x.t() @ x)
        four, eight = (error(gptq(w, inputs, Format(bits)), w, x) for bits in (4, 8))
        assert eight < four / 100

    def test_the_result_does_not_depend_on_how_rows_are_shared_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        w, x = weight(), correlated()
        whole = gptq(w, inputs_of(x.t() @ x), Format())
        monkeypatch.setattr(module, "ROWS", 16)
        cut = gptq(w, inputs_of(x.t() @ x), Format())
        assert torch.equal(whole.packed, cut.packed) and torch.equal(whole.scales, cut.scales)

    def test_inputs_that_were_always_zero_do_no_harm(self) -> None:
        w, x = weight(), correlated()
        x[:, 40:50] = 0
        assert error(gptq(w, inputs_of(x.t() @ x), Format()), w, x) > 0

    def test_a_row_that_is_no_multiple_of_the_block_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not a multiple of 32"):
            gptq(weight(4, 48), None, Format())

    def test_a_value_that_is_not_finite_is_refused(self) -> None:
        w = weight()
        w[7, 5] = torch.inf
        with pytest.raises(ValueError, match="not finite"):
            gptq(w, None, Format())


def calibrated(folder: Path, out: Path, **settings: Any) -> Path:
    """CalibratedQuant over a model folder, on TEXTS."""
    from olive.model import HfModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    from shared.olive.calibrated_pass import CalibratedQuant

    tokens = out.with_suffix(".json")
    tokens.write_text(json.dumps(TEXTS))
    create_pass_from_dict(
        CalibratedQuant, {"calibration": str(tokens)} | settings, disable_search=True
    ).run(HfModelHandler(str(folder)), str(out))
    return out


def reference(folder: Path, quantised: Path) -> np.ndarray:
    """Logits of the model in PyTorch with the quantised weights put in, dequantised."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    checkpoint = Checkpoint(quantised)
    with torch.inference_mode():
        parameters = dict(model.named_parameters())
        for name, tensor in checkpoint.state.items():
            if tensor.dtype == torch.int64 and name in parameters:
                parameters[name].copy_(dequantized(checkpoint.blocks(tensor)))
        return np.asarray(model(torch.tensor([IDS])).logits[0].numpy())


SETTINGS: dict[str, dict[str, Any]] = {
    "symmetric": {},
    "zero points in blocks of 16": {"sym": False, "group_size": 16},
    "8-bit table, some zero points": {
        "overrides": {"model.embed_tokens": {"bits": 8}, "*.mlp.*": {"sym": False}}
    },
}


@pytest.mark.parametrize("architecture", ["llama", "qwen2-untied", "phi3", "smollm3"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_graph_computes_with_the_weights_that_were_written(
    architecture: str, settings: str, tiny: Tiny, tmp_path: Path
) -> None:
    parent = tiny(architecture)
    folder = calibrated(parent, tmp_path / "q", **SETTINGS[settings])
    ours, theirs = logits(build(folder, tmp_path / "onnx")), reference(parent, folder)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-3


@pytest.mark.parametrize("architecture", ["llama", "qwen2-untied", "phi3", "smollm3"])
def test_calibration_keeps_more_of_the_model_than_rounding(
    architecture: str, tiny: Tiny, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    parent = tiny(architecture)
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    with torch.inference_mode():
        expected = np.asarray(model(torch.tensor([IDS])).logits[0].numpy())

    def loss(name: str, **settings: Any) -> float:
        folder = calibrated(parent, tmp_path / name, **settings)
        return float(np.square(reference(parent, folder) - expected).mean())

    plain = loss("plain", feedback=False, search=False)
    assert loss("both") < 0.9 * plain


def test_a_block_size_that_no_kernel_has_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RungFailed, match="only 4 and 8 bits in blocks of 16 to 256"):
        calibrated(tiny("llama"), tmp_path / "q", group_size=24)


@pytest.mark.parametrize("module", ["model.embed_tokens", "model.layers.0.mlp.down_proj"])
def test_rows_of_no_whole_blocks_are_refused_before_a_layer_is_calibrated(
    module: str, tiny: Tiny, tmp_path: Path
) -> None:
    overrides = {module: {"group_size": 256}}
    with pytest.raises(
        RungFailed, match=rf"olive\.json: {module}: row length \d+ is not a multiple"
    ):
        calibrated(tiny("llama"), tmp_path / "q", overrides=overrides)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"lm_hed": {"bits": 8}}, "'lm_hed': the model has no such module; did you mean 'lm_head'"),
        ({"*.v_proj": {"bit": 8}}, r"'\*\.v_proj': unknown key 'bit'; did you mean 'bits'"),
        ({"*.v_proj": {"symmetric": False}}, "unknown key 'symmetric'; did you mean 'sym'"),
    ],
)
def test_an_override_that_would_change_nothing_is_refused(
    overrides: dict[str, Any], why: str, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(RungFailed, match=why):
        calibrated(tiny("llama"), tmp_path / "q", overrides=overrides)


def test_a_tied_head_has_the_bits_that_are_asked_for_by_its_name(
    tiny: Tiny, tmp_path: Path
) -> None:
    folder = calibrated(tiny("llama"), tmp_path / "q", overrides={"lm_head": {"bits": 8}})
    told = json.loads((folder / "config.json").read_text())["quantization_config"]["overrides"]
    assert told["model.embed_tokens"] == told["lm_head"] == {"bits": 8}


def test_a_model_whose_last_norm_has_another_name_is_calibrated(
    embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PhiConfig

    monkeypatch.setitem(ARCHITECTURES, "phi", (PhiConfig, {"partial_rotary_factor": 1.0}))
    folder = calibrated(write_tiny(tmp_path / "phi", "phi", embedded), tmp_path / "q")
    assert (folder / "config.json").is_file()
