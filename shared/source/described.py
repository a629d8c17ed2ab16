"""The model that a config.json describes: its tensors by name and shape, as transformers has it.

>>> described_model(Path("models/legal/merged")).shapes["model.norm.weight"]
(2048,)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.processes import not_collecting

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Model:
    """The model that a config.json describes: name → shape of every tensor that save_pretrained writes.

    `tied`: target → source of the tensors that are one; `prefix`: of the model without its head;
    `table`: the embedding; `ignored`: patterns of names that the model passes over in a file.
    """

    table: str
    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]
    prefix: str
    ignored: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many tokens the embedding has room for."""
        return self.shapes[self.table][0]

    def own_name(self, name: str) -> str:
        """A file's name in the model's words: transformers adds or strips the base model's prefix."""
        if name in self.shapes:
            return name
        stripped, longer = name.removeprefix(f"{self.prefix}."), f"{self.prefix}.{name}"
        return stripped if stripped in self.shapes else longer if longer in self.shapes else name


@not_collecting()
def described_model(folder: Path) -> Model:
    """The model of the folder's config.json on the meta device; RungFailed where there is none."""
    config = _causal_config(folder)
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    with _refusing_nonsense(folder):
        with torch.device("meta"):
            made: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        saved = revert_weight_conversion(made, made.state_dict())
    embedding = made.get_input_embeddings().weight
    return Model(
        next(name for name, tensor in made.named_parameters() if tensor is embedding),
        {name: tuple(tensor.shape) for name, tensor in saved.items()},
        dict(made.all_tied_weights_keys),
        made.base_model_prefix,
        (r"rotary_emb\.inv_freq$", *(made._keys_to_ignore_on_load_unexpected or ())),
    )


def model_config(folder: Path) -> Any:
    """transformers' configuration of a model folder, whose attention is the one that is here: what a
    person trained with (flash_attention_2, a kernel from the Hub) says nothing of the weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config._attn_implementation = None
    return config


def _causal_config(folder: Path) -> Any:
    """transformers' configuration, before what builds models is imported, which takes seconds more."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    with _refusing_nonsense(folder):
        config = model_config(folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        where = paths.shown(folder / "config.json")
        raise RungFailed(f"{where}: model_type: {config.model_type!r} is no causal language model")
    return config


@contextmanager
def _refusing_nonsense(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a config of any kind of nonsense: its class raises what it likes
        words = " ".join(str(error).split())[:300] or type(error).__name__
        where = paths.shown(folder / "config.json")
        raise RungFailed(f"{where}: describes no causal language model: {words}") from None
