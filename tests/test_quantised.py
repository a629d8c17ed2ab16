"""What an Olive pass has quantised is built as it is: held against Olive's own modules in PyTorch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from shared.base.errors import RungFailed
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.weights import Int4Options, write_int4
from shared.olive.quantise.checkpoint import Checkpoint
from tests.test_build import empty_cache, run
from tests.tiny import VOCABULARY

Tiny = Callable[[str], Path]
IDS = (1, 4093, 198, 1780, 314, 260, 3575, 282, 649, 47, 2, 198, 1, 520, 2531, 198)
EIGHT = {
    "model.layers.1.self_attn.v_proj": {"bits": 8},
    "model.layers.2.mlp.down_proj": {"bits": 8},
}

SETTINGS: dict[str, dict[str, Any]] = {
    "symmetric": {"sym": True},
    "asymmetric": {"sym": False},
    "eight bits": {"bits": 8, "sym": True},
    "asymmetric in blocks of 16": {"sym": False, "group_size": 16},
    "mixed": {"sym": False, "overrides": EIGHT},
}
WHOLE = {"embeds": True, "lm_head": True}


def quantised(folder: Path, out: Path, **settings: Any) -> Path:
    """Olive's Rtn pass over a model folder."""
    from olive.model import HfModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.pytorch.rtn import Rtn

    config = {"bits": 4, "group_size": 32} | settings
    create_pass_from_dict(Rtn, config, disable_search=True).run(
        HfModelHandler(str(folder)), str(out)
    )
    return out


def build(folder: Path, out: Path, dtype: str = "f32") -> Path:
    out.mkdir(exist_ok=True)
    file = out / "model.onnx"
    options = Int4Options(accuracy_level=1, quantize_embedding=False)
    write_int4(build_graph(folder, dtype), Checkpoint(folder), file, options)
    return file


def logits(file: Path) -> np.ndarray:
    session = ort.InferenceSession(file)
    return np.asarray(run(session, IDS, empty_cache(session))["logits"][0])


def olives(folder: Path) -> np.ndarray:
    """Logits of Olive's own quantised modules."""
    from olive.model import HfModelHandler

    model = HfModelHandler(str(folder), load_kwargs={"torch_dtype": "float32"}).load_model()
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([IDS])).logits[0].float().numpy())


@pytest.mark.parametrize("architecture", ["llama", "qwen2-untied", "phi3", "smollm3"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_graph_computes_what_olives_modules_compute(
    architecture: str, settings: str, tiny: Tiny, tmp_path: Path
) -> None:
    if architecture == "phi3" and settings == "mixed":
        pytest.skip("Phi-3 has no v_proj of its own")
    folder = quantised(tiny(architecture), tmp_path / "q", **(SETTINGS[settings] | WHOLE))
    ours, theirs = logits(build(folder, tmp_path / "onnx")), olives(folder)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-3


def test_every_module_keeps_its_bits_and_blocks(tiny: Tiny, tmp_path: Path) -> None:
    settings = SETTINGS["mixed"] | WHOLE
    folder = quantised(tiny("llama"), tmp_path / "q", **settings)
    graph = onnx.load(build(folder, tmp_path / "onnx"), load_external_data=False).graph
    bits = {
        node.input[1]: {a.name: a.i for a in node.attribute}["bits"]
        for node in graph.node
        if node.op_type == "MatMulNBits"
    }
    eights = sorted(name for name, number in bits.items() if number == 8)
    assert len(eights) == 2, bits
    # v_proj was fused with q and k, which Olive raises to its precision
    assert ["layers.1." in name for name in eights] == [True, False], eights


def test_a_tied_table_is_still_stored_once(tiny: Tiny, tmp_path: Path) -> None:
    folder = quantised(tiny("llama"), tmp_path / "q", sym=True, **WHOLE)
    graph = onnx.load(build(folder, tmp_path / "onnx"), load_external_data=False).graph
    tables = [
        t.name
        for t in graph.initializer
        if list(t.dims)[:1] == [VOCABULARY] and "scales" not in t.name
    ]
    assert len(tables) == 1, tables


def test_what_was_left_in_float_is_quantised_by_the_builder(tiny: Tiny, tmp_path: Path) -> None:
    folder = quantised(tiny("llama"), tmp_path / "q", sym=False)
    out = tmp_path / "onnx"
    out.mkdir()
    checkpoint = Checkpoint(folder)
    write_int4(build_graph(folder, "f32"), checkpoint, out / "model.onnx", Int4Options())
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    assert [n.op_type for n in graph.node].count("GatherBlockQuantized") == 1


class TestIsRefused:
    @pytest.fixture
    def folder(self, tiny: Tiny, tmp_path: Path) -> Path:
        return quantised(tiny("llama"), tmp_path / "q", sym=True)

    def change(self, folder: Path, **settings: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= settings
        (folder / "config.json").write_text(json.dumps(config))

    def test_another_method(self, folder: Path) -> None:
        self.change(folder, quant_method="gptq")
        with pytest.raises(RungFailed, match="quantization_config: 'gptq' is not read"):
            Checkpoint(folder)

    @pytest.mark.parametrize("wrong", [{"bits": 8}, {"group_size": 64}, {"symmetric": False}])
    def test_a_configuration_that_does_not_fit_its_tensors(
        self, wrong: dict[str, Any], folder: Path
    ) -> None:
        self.change(folder, **wrong)
        with pytest.raises(RungFailed, match="its tensors do not fit"):
            Checkpoint(folder)

    def test_parts_of_one_weight_quantised_differently(self, folder: Path) -> None:
        other = shutil.copytree(folder, folder.with_name("other"))
        checkpoint, strange = Checkpoint(folder), Checkpoint(other)
        strange._modules[1] = quantised_blocks(8, strange._modules[1].packed)
        both = torch.cat([checkpoint.state[n] for n in sorted(checkpoint.state) if "k_proj" in n])
        with pytest.raises(RungFailed, match="quantised differently"):
            strange.blocks(torch.cat([both, torch.tensor([[1 << 32]])]))


def quantised_blocks(bits: int, packed: torch.Tensor) -> Any:
    from shared.olive.quantise.packing import Blocks

    return Blocks(bits, 32, packed, torch.ones(packed.shape[:2]))
