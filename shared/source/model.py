"""The 16-bit model of a folder in PyTorch: the one place where its weights become a module."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json
from shared.source.adapter import WEIGHTS, is_transposed, read_adapter, refuse_misfit
from shared.source.contract import Contract, source_contract
from shared.source.described import model_config
from shared.source.weights import load_weights, parts

if TYPE_CHECKING:
    import torch


def model_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """The tensors of the folder's model under the model's own names, memory-mapped; all, and no more.

    With an adapter those that it changes are `shared.source.merging.Merged`. RungFailed where
    shared.source.contract finds a fault.
    """
    contract = source_contract(folder)
    base, adapter = parts(folder)
    loaded = load_weights(base)
    found = {name: loaded[tensor.name] for name, tensor in contract.tensors.items()}
    copies = contract.copies()
    for head, table in contract.model.tied.items():  # only one of a tied pair need be there
        found |= {table: found[head]} if table not in found else {}
        found |= {head: found[table]} if head in copies else {}
    return found | (_adapted(found, contract, adapter) if adapter else {})


def _adapted(
    found: "dict[str, torch.Tensor]", contract: Contract, folder: Path
) -> "dict[str, torch.Tensor]":
    """The weights that the folder's adapter changes, each with its pair."""
    from safetensors.torch import load_file

    from shared.source.merging import Merged, Pair

    adapter, halves = read_adapter(folder), load_file(folder / WEIGHTS)
    kind = read_json(contract.folder / "config.json").get("model_type")
    refuse_misfit(adapter, contract.model, kind)
    merged: dict[str, torch.Tensor] = {}
    for module, told in adapter.pairs.items():
        name = contract.model.own_name(f"{module}.weight")
        a, b = halves[told.a.name], halves[told.b.name]
        pair = Pair(a, b, told.scaling, is_transposed(name, kind))
        merged[name] = Merged(found[name], pair)
    return merged


def _usual_type(weights: "dict[str, torch.Tensor]") -> "torch.dtype":
    """The type that most of the bytes have."""
    sizes: Counter[torch.dtype] = Counter()
    for weight in weights.values():
        sizes[weight.dtype] += weight.numel() * weight.element_size()
    return sizes.most_common(1)[0][0]


def load_model(folder: Path, dtype: str = "auto", *, lazily: bool = False) -> Any:
    """The causal language model, in evaluation mode and without gradients.

    It gets the tensors of `model_weights` and reads no other file: transformers would take an adapter
    that lies beside them, or fill what is missing with random values. `dtype`: "auto" keeps the type of
    most of the weights, memory-mapped; transformers would take config.json's, and where that is another
    copy them all. `lazily`: what an adapter changes is not merged yet, for who takes a
    layer at a time (shared.source.merging.merge_all).
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = model_config(folder)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    weights = model_weights(folder)
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=_usual_type(weights) if dtype == "auto" else dtype,
        output_loading_info=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            first = sorted(map(str, report[kind]))[0]
            raise RungFailed(f"{paths.shown(folder)}: transformers reports {first} among {kind}")
    if parts(folder).adapter and not lazily:
        from shared.source.merging import merge_all

        merge_all(model)
    return model.eval().requires_grad_(False)
