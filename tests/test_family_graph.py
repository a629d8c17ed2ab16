"""Adapters beside a 4-bit graph compute what PyTorch computes, as initializers and as inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.domain.settings import Precision
from shared.olive.graph.adapters import (
    BITS,
    Product,
    adapter_tensors,
    attach,
    in_graph_type,
    needed_ranks,
    products,
)
from shared.olive.graph.external_data import ExternalDataWriter
from shared.olive.quantise.nearest import dequantize, quantize
from shared.olive.quantise.packing import Blocks, dequantized
from shared.source.adapter import Adapter, read_adapter
from shared.source.model import load_model
from tests.test_build import build, empty_cache, run

Tiny = Callable[[str], Path]
IDS = (1, 4093, 198, 1780, 314, 260, 3575, 282, 649, 47, 2, 198, 1, 520, 2531, 198)
ALL = {"target_modules": "all-linear"}
SOME: dict[str, Any] = {
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "rank_pattern": {"v_proj": 2, "q_proj": 5},
}
ROUNDED: dict[Precision, float] = {"f16": 1e-3, "int8": 1e-2, "int4": 0.15}
"""How far scaling · B · A may be from what peft computes, by its Frobenius norm."""


def trained(base: Path, folder: Path, config: dict[str, Any], seed: int = 7) -> Adapter:
    """A random adapter saved by peft, of the size that training leaves: A far larger than B."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    made = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | config
    model: Any = get_peft_model(load_model(base), LoraConfig(**made))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5 if "lora_A" in name else 0.05)
    model.save_pretrained(folder, save_embedding_layers=False)  # else it asks the Hub
    return read_adapter(folder)


def dequantised(base: Path) -> Any:
    """PyTorch's model with W as the 4-bit file holds it, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(dequantize(*quantize(parameter.to(torch.bfloat16), 32)))
    return model.eval()


def change(tensors: dict[str, torch.Tensor], stem: str, precision: Precision) -> torch.Tensor:
    """B · A of a product in float32, as the graph has them."""
    halves = []
    for half in (f"{stem}.lora_B", f"{stem}.lora_A"):
        if precision == "f16":
            halves.append(tensors[half].float())
        else:
            codes, scales = tensors[f"{half}_codes"], tensors[f"{half}_scales"]
            size = codes.shape[2] * 8 // BITS[precision]
            halves.append(dequantized(Blocks(BITS[precision], size, codes, scales)))
    return halves[0] @ halves[1]


def beside(
    base: Path, found: dict[str, Product], tensors: dict[str, torch.Tensor], precision: Precision
) -> Any:
    """PyTorch's model: W as the 4-bit file holds it, + B · A as the adapter's file holds them."""
    model = dequantised(base)
    weights = dict(model.named_parameters())
    for stem, product in found.items():
        parts = {name: rows for name, rows in product.rows.items() if f"{name}.weight" in weights}
        for name, rows in (
            parts.items() if any(n.startswith(f"{stem}.lora") for n in tensors) else ()
        ):
            whole = change(tensors, stem, precision)
            with torch.no_grad():
                weights[f"{name}.weight"] += whole[rows.start : rows.stop]
    return model


def by_torch(model: Any) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.tensor([IDS])).logits[0])


def parsed(file: Path) -> onnx.ModelProto:
    return onnx.load(str(file), load_external_data=False)


def logits(file: Path, given: dict[str, torch.Tensor] | None = None) -> np.ndarray:
    """What the graph says after each of IDS, half of them read at once and then token by token."""
    session = ort.InferenceSession(str(file))
    past = {k: v for k, v in empty_cache(session).items() if k.startswith("past")}
    model, found = parsed(file), []
    feeds = {n: in_graph_type(model, t).numpy() for n, t in (given or {}).items()}
    for part in (IDS[:8], *([token] for token in IDS[8:])):
        made = run(session, part, past | feeds)
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        found.append(made["logits"][0].astype(np.float32))
    return np.concatenate(found)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def as_initializers(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """`model.onnx` becomes the graph with the adapter; its data files stay as they are."""
    model = parsed(file)
    with ExternalDataWriter(file, behind=1) as data:
        attach(model, tensors, data)
    onnx.save_model(model, str(file))
    return file


def as_inputs(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    model = parsed(file)
    attach(model, tensors)
    onnx.save_model(model, str(file.with_name("swap.onnx")))
    return file.with_name("swap.onnx")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize(
    ("architecture", "config"),
    [("smollm3", ALL), ("qwen2", SOME), ("phi3", ALL), ("qwen2-untied", ALL)],
)
class TestAnAdapterBesideA4BitGraph:
    def test_computes_what_pytorch_computes_in_both_forms(
        self,
        architecture: str,
        config: dict[str, Any],
        precision: Precision,
        tiny: Tiny,
        tmp_path: Path,
    ) -> None:
        base, file = tiny(architecture), build(tiny(architecture), tmp_path / "onnx")
        adapter, plain = trained(base, tmp_path / "adapter", config), logits(file)
        found, data = products(parsed(file)), sha256(Path(f"{file}_data"))
        ranks = needed_ranks(found, [adapter], precision)
        tensors = adapter_tensors(found, adapter, ranks, precision)
        wanted = by_torch(beside(base, found, tensors, precision))
        assert distance(plain, wanted) > 0.3, "the adapter changes nothing"
        swap = as_inputs(file, tensors)
        given = logits(swap, tensors)
        assert distance(given, wanted) < 1e-3
        nothing = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        assert np.array_equal(logits(swap, nothing), plain)
        beside_it = logits(as_initializers(file, tensors))
        assert distance(beside_it, given) < 1e-5
        assert sha256(Path(f"{file}_data")) == data and Path(f"{file}_data_1").is_file()


def test_a_base_of_several_data_files_gets_one_more(tmp_path: Path) -> None:
    with ExternalDataWriter(tmp_path / "model.onnx", behind=2) as data:
        told = data.add("a", torch.ones(4))
    assert [path.name for path in data.chunks] == ["model.onnx_data_2"]
    assert {e.key: e.value for e in told.external_data}["location"] == "model.onnx_data_2"


@pytest.mark.parametrize("precision", ROUNDED)
def test_the_product_of_its_halves_is_pefts_but_for_their_rounding(
    precision: Precision, tiny: Tiny, tmp_path: Path
) -> None:
    base = tiny("qwen2")
    adapter = trained(base, tmp_path / "adapter", SOME)
    found = products(parsed(build(base, tmp_path / "onnx")))
    ranks = needed_ranks(found, [adapter], precision)
    ours = beside(base, found, adapter_tensors(found, adapter, ranks, precision), precision)
    from peft import PeftModel

    theirs: Any = PeftModel.from_pretrained(dequantised(base), str(adapter.folder))
    before, after = dict(dequantised(base).named_parameters()), theirs.merge_and_unload()
    weights = dict(ours.named_parameters())
    for name, weight in after.named_parameters():
        wanted, got = weight - before[name], weights[name] - before[name]
        assert (got - wanted).norm() <= ROUNDED[precision] * wanted.norm(), name
