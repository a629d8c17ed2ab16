"""The 16-bit model of a folder in PyTorch: the one place where its weights become a module."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.source.contract import source_contract
from shared.source.weights import load_weights

if TYPE_CHECKING:
    import torch


def model_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """The tensors of the folder's model under the model's own names, memory-mapped; all, and no more.

    RungFailed where shared.source.contract finds a fault.
    """
    contract, loaded = source_contract(folder), load_weights(folder)
    found = {name: loaded[tensor.name] for name, tensor in contract.tensors.items()}
    for head, table in contract.model.tied.items():  # only one of a tied pair need be there
        found |= {table: found[head]} if table not in found else {}
    return found


def load_model(folder: Path, dtype: str = "auto") -> Any:
    """The causal language model, in evaluation mode and without gradients.

    It gets the tensors of `model_weights` and reads no other file: transformers would take an adapter
    that lies beside them, or fill what is missing with random values. `dtype`: "auto" keeps the
    weights' own, memory-mapped.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=model_weights(folder),
        dtype=dtype,
        output_loading_info=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            first = sorted(map(str, report[kind]))[0]
            raise RungFailed(f"{paths.shown(folder)}: transformers reports {first} among {kind}")
    return model.eval().requires_grad_(False)
