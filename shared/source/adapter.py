"""A LoRA adapter as peft saves it, read strictly: what cannot be merged as it was trained is refused.

>>> adapter = read_adapter(Path("models/legal/adapter"))
>>> adapter.pairs["model.layers.0.self_attn.q_proj"]
LoraPair(a=Tensor(…), b=Tensor(…), scaling=2.0)

Unsloth, TRL and LLaMA-Factory save the same folder. Refusals are one sentence with file and key, and
need no torch. Scaling, ranks and names are peft's (tuners/lora/layer.py: update_layer; utils/other.py:
get_pattern_key; utils/save_and_load.py).
"""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from shared.base import paths
from shared.base.errors import RungFailed
from shared.base.parsing import read_json, validate
from shared.source.contract import Contract
from shared.source.described import Model
from shared.source.headers import FLOATS, Tensor, not_finite, read_header
from shared.source.training import NAME

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")

REFUSED = {
    "use_dora": "DoRA scales each row of the merged weight",
    "use_qalora": "QALoRA's A takes averages of the inputs",
    "modules_to_save": "whole modules were trained beside the LoRA",
    "trainable_token_indices": "rows of the embedding were trained beside the LoRA",
    "layer_replication": "the base's layers are repeated",
    "target_parameters": "parameters that are no linear layer's weight were adapted",
    "alora_invocation_tokens": "it works only behind certain tokens",
    "lora_bias": "B has a bias",
    "megatron_config": "Megatron's layers are split otherwise",
}
"""Keys of adapter_config.json that change more than W + scaling · B · A, and how."""

SAME_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are; pissa, olora, corda, loftq,
lora_ga and mica's B and A belong to another one."""

HARMLESS = {
    *("auto_mapping", "inference_mode", "lora_dropout", "megatron_core", "peft_version"),
    *("qalora_group_size", "revision", "runtime_config"),
    *("eva_config", "fan_in_fan_out", "init_lora_weights"),
    *("loftq_config", "corda_config", "lora_ga_config"),
}
"""Keys that say how it was trained; peft takes `fan_in_fan_out` from the kind of layer. The last three
stay in an adapter that was converted: `init_lora_weights` says whether the base was changed."""

TRANSPOSED = ("gpt2", "openai-gpt")
"""Model types whose linear layers are transformers' Conv1D, with weights [in, out]."""

PAIR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight"
)
COPY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.base_layer\.weight")
"""A head or table that was adapted, as the base had it: `save_pretrained` puts it beside the pair."""
LONGEST_NAME = 300
"""Of a tensor: the time that a pattern takes grows with it."""
SIMPLE = re.compile(r"[\w.|\\^$()*+?\[\]-]{1,200}")
QUANTIFIED_GROUP, QUANTIFIER, MOST_QUANTIFIERS = (
    re.compile(r"\)[*+?{]"),
    re.compile(r"[*+?{]\??"),
    2,
)


Alpha = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
"""1e999 is infinity as JSON is read, and B times infinity is no number where B is zero."""


class AdapterConfig(BaseModel):
    """The keys of adapter_config.json that merging depends on; the others are judged by `_refusals`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    bias: Literal["none"] = "none"
    r: PositiveInt
    lora_alpha: Alpha
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = Field(default_factory=dict)
    alpha_pattern: dict[str, Alpha] | None = Field(default_factory=dict)
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    base_model_name_or_path: str | None = None


@dataclass(frozen=True)
class LoraPair:
    """A [r, in] and B [out, r] by their headers, and what their product is multiplied with."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """A folder's adapter: its configuration, its pairs by the name of the module they belong to, and
    copies of the base's weight by that of some of these modules."""

    folder: Path
    config: AdapterConfig
    pairs: dict[str, LoraPair]
    copies: dict[str, Tensor] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, str]:
        """What its tensors say where adapter_config.json says nothing."""
        modules = sorted({name.rpartition(".")[2] for name in self.pairs})
        return {"target modules": ", ".join(filter(NAME.fullmatch, modules))}

    @property
    def told_for_certain(self) -> dict[str, str]:
        """What it was trained with where `r` and `lora_alpha` alone would mislead: patterns, rslora."""
        r, alpha = self.config.r, self.config.lora_alpha
        ranks = {pair.a.shape[0] for pair in self.pairs.values()}
        scalings = {round(pair.scaling, 4) for pair in self.pairs.values()}
        told = {} if ranks == {r} else {"rank (r)": _from_to(ranks)}
        return told if scalings == {round(alpha / r, 4)} else told | {"scaling": _from_to(scalings)}


def _from_to(values: Collection[float]) -> str:
    ends = dict.fromkeys((min(values), max(values)))
    return " to ".join(f"{value:g}" for value in ends)


def read_adapter(folder: Path) -> Adapter:
    """The adapter of a folder by its configuration and headers; RungFailed in one sentence."""
    where = paths.shown(folder / CONFIG)
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_file():
            continue
        other = next((n for n in PICKLES if (folder / n).is_file()), None)
        if name == WEIGHTS and other:
            raise RungFailed(
                f"{paths.shown(folder / other)}: a pickle, which can run code when read; save the "
                "adapter with save_pretrained(..., safe_serialization=True)"
            )
        raise RungFailed(f"{paths.shown(folder / name)}: the file is missing")
    data = read_json(folder / CONFIG)
    if not isinstance(data, dict):
        raise RungFailed(f"{where}: must be one JSON object")
    for refusal in _refusals(data):
        raise RungFailed(f"{where}: {refusal}")
    config = validate(data, AdapterConfig, where)
    return Adapter(folder, config, *_tensors(folder, config))


def _refusals(data: dict[str, Any]) -> Iterator[str]:
    """A sentence for each key that changes what the adapter computes otherwise than is merged here."""
    kind = data.get("peft_type")
    if kind != "LORA":
        yield f"peft_type: {kind!r} is not merged here, only 'LORA' is"
    if (bias := data.get("bias", "none")) != "none":
        yield f"bias: {bias!r}: biases were trained beside the LoRA, which is not merged here"
    if (start := data.get("init_lora_weights", True)) not in SAME_BASE:
        yield f"init_lora_weights: {start!r} changes the base's weights, which are not at hand"
    for key, words in REFUSED.items():
        if data.get(key):
            yield f"{key}: {words}, which is not merged here"
    for key, value in data.items():
        if value and key not in {*AdapterConfig.model_fields, *REFUSED, *HARMLESS}:
            yield f"{key}: unknown key, and it may change what the adapter computes"
    for name in ("rank_pattern", "alpha_pattern"):
        found = data.get(name)
        for pattern in found if isinstance(found, dict) else ():
            if not _is_simple(pattern, part=True):
                yield f"{name}: {pattern!r:.200} is no pattern of module names that is read here"


def _is_simple(pattern: str, *, part: bool = False) -> bool:
    """Whether matching it takes no time: a third party's regular expression can take for ever. `part`:
    it is put into a longer one, where no flags can stand."""
    if not SIMPLE.fullmatch(pattern) or QUANTIFIED_GROUP.search(pattern):
        return False
    try:
        re.compile(f"(?:{pattern})" if part else pattern)
    except (re.error, ValueError):  # the latter for flags that exclude each other
        return False
    return len(QUANTIFIER.findall(pattern)) <= MOST_QUANTIFIERS


def _tensors(folder: Path, config: AdapterConfig) -> tuple[dict[str, LoraPair], dict[str, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    copies: dict[str, Tensor] = {}
    for tensor in read_header(folder / WEIGHTS):
        if len(tensor.name) > LONGEST_NAME:
            where = f"{paths.shown(folder / WEIGHTS)}: {tensor.name[:40]!r}…"
            raise RungFailed(f"{where}: a name of {len(tensor.name):,} characters")
        if copy := COPY.fullmatch(tensor.name):
            copies[copy["module"]] = tensor
            continue
        found = PAIR.fullmatch(tensor.name)
        if not found:
            raise RungFailed(f"{shown_tensor(folder, tensor)}: {_stranger(tensor)}")
        if tensor.dtype not in FLOATS:
            raise RungFailed(
                f"{shown_tensor(folder, tensor)}: of type {tensor.dtype}; 16 or 32 bits are read"
            )
        both = halves.setdefault(found["module"], {})
        if found["half"] in both:
            raise RungFailed(
                f"{shown_tensor(folder, tensor)}: the same as {both[found['half']].name}"
            )
        both[found["half"]] = tensor
    for module in copies.keys() - halves.keys():
        raise RungFailed(
            f"{shown_tensor(folder, copies[module])}: has no lora_A and lora_B beside it"
        )
    if not halves:
        raise RungFailed(f"{paths.shown(folder / WEIGHTS)}: holds no tensor")
    return {name: _pair(folder, config, name, both) for name, both in halves.items()}, copies


def _stranger(tensor: Tensor) -> str:
    if "lora_magnitude_vector" in tensor.name:
        return "DoRA scales each row of the merged weight, which is not merged here"
    if "lora_embedding_" in tensor.name:
        return "the embedding was adapted, which is not merged here"
    if tensor.name.endswith("bias"):
        return "a bias was trained beside the LoRA, which is not merged here"
    if "embed" in tensor.name or "lm_head" in tensor.name:
        shape = " x ".join(map(str, tensor.shape))
        return f"a trained or resized table of {shape} beside the LoRA, which is not merged here"
    return "is no tensor of a LoRA"


def _pair(folder: Path, config: AdapterConfig, name: str, both: dict[str, Tensor]) -> LoraPair:
    only = next(iter(both.values()))
    if len(both) < 2:
        missing = "lora_B" if "A" in both else "lora_A"
        raise RungFailed(f"{shown_tensor(folder, only)}: has no {missing} beside it")
    a, b = both["A"], both["B"]
    for tensor in (a, b):
        if len(tensor.shape) != 2:
            shape = list(tensor.shape)
            raise RungFailed(
                f"{shown_tensor(folder, tensor)}: has shape {shape}; two dimensions are wanted"
            )
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(_matching(ranks, name), config.r)
    for tensor, found in ((a, a.shape[0]), (b, b.shape[1])):
        if found != rank:
            raise RungFailed(
                f"{shown_tensor(folder, tensor)}: has rank {found}, but {CONFIG} says {rank}"
            )
    alpha = alphas.get(_matching(alphas, name), config.lora_alpha)
    return LoraPair(a, b, alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _matching(patterns: dict[str, Any], name: str) -> str:
    """peft's get_pattern_key: the first pattern that the name, or its end behind a dot, matches."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", name)), name)


def refuse_misfit(adapter: Adapter, model: Model, model_type: Any) -> None:
    """RungFailed naming the tensor where the adapter does not belong to a base of that shape."""
    folder, weights = adapter.folder, set[str]()
    for module, pair in adapter.pairs.items():
        name = model.own_name(f"{module}.weight")
        shape = model.shapes.get(name)
        if shape is None or len(shape) != 2:
            raise RungFailed(
                f"{shown_tensor(folder, pair.a)}: the base has no linear layer {module}"
            )
        if name == model.table or name in model.tied:
            raise RungFailed(
                f"{shown_tensor(folder, pair.a)}: {module} is the base's embedding, or tied to it"
            )
        wanted = shape[::-1] if is_transposed(name, model_type) else shape
        sides = ((pair.a, pair.a.shape[1], wanted[1]), (pair.b, pair.b.shape[0], wanted[0]))
        for tensor, own, size in sides:
            if own != size:
                raise RungFailed(
                    f"{shown_tensor(folder, tensor)}: is for {own} values, but the base's {name} "
                    f"has {size}; it was trained on another base"
                )
        if name in weights:
            raise RungFailed(
                f"{shown_tensor(folder, pair.a)}: adapts the base's {name}, as another pair does"
            )
        weights.add(name)
        if (copy := adapter.copies.get(module)) and copy.shape != shape:
            raise RungFailed(f"{shown_tensor(folder, copy)}: {_stranger(copy)}")
    _refuse_incomplete(adapter, model, weights)


def refuse_not_finite(adapter: Adapter) -> None:
    """RungFailed naming the tensor that holds an infinity or no number; reads the adapter's weights."""
    if name := not_finite(adapter.folder / WEIGHTS):
        raise RungFailed(
            f"{paths.shown(adapter.folder / WEIGHTS)}: {name}: holds numbers that are not finite"
        )


def refuse_other_copies(adapter: Adapter, base: Contract) -> None:
    """RungFailed where the adapter's copy of a weight, in the base's type, is not the base's."""
    from safetensors import safe_open

    for module, copy in adapter.copies.items():
        ours = base.tensors[base.model.own_name(f"{module}.weight")]
        with (
            safe_open(base.folder / ours.file, "pt") as own,
            safe_open(adapter.folder / WEIGHTS, "pt") as other,
        ):
            weight, same = own.get_tensor(ours.name), other.get_tensor(copy.name)
        if not same.to(weight.dtype).equal(weight):
            raise RungFailed(f"{shown_tensor(adapter.folder, copy)}: {_stranger(copy)}")


def is_transposed(name: str, model_type: Any) -> bool:
    """Whether the model type keeps this linear layer's weight as [in, out]."""
    return model_type in TRANSPOSED and "lm_head" not in name


def _refuse_incomplete(adapter: Adapter, model: Model, weights: set[str]) -> None:
    """Every layer that adapter_config.json names has a pair: half a file has lost the others."""
    config = adapter.config
    texts = [p for p in (config.target_modules, config.exclude_modules) if isinstance(p, str)]
    parts = _listed(config.layers_pattern)
    if not all(map(_is_simple, texts)) or not all(_is_simple(p, part=True) for p in parts):
        return  # nobody knows what they name
    for name, shape in model.shapes.items():
        if len(shape) != 2 or not name.endswith(".weight") or name in weights:
            continue
        module = name.removesuffix(".weight")
        if named := _target_of(config, module):
            raise RungFailed(
                f"{paths.shown(adapter.folder / WEIGHTS)}: {module}: has no pair, but {CONFIG}: "
                f"target_modules names {named}"
            )


def _target_of(config: AdapterConfig, module: str) -> str:
    """What of `target_modules` makes peft adapt the module (tuners/tuners_utils.py:
    check_target_module_exists); "" where nothing does."""
    named = _named_by(config.target_modules, module)
    if not named or _named_by(config.exclude_modules, module):
        return ""
    layers = _listed(config.layers_to_transform)
    if not layers or named == module or isinstance(config.target_modules, str):
        return named
    if len(re.findall(r"\.\d+\.", module)) > 1:
        return ""  # an expert's: which of its numbers is the layer's depends on peft's version
    places = _listed(config.layers_pattern) or [r"[^.]*"]
    found = (re.match(rf"(?:^|.*?\.){place}\.(?P<idx>\d+)\.", module) for place in places)
    layer = next(filter(None, found), None)
    number = layer and layer["idx"]
    return named if number and int(number) in layers else ""


def _named_by(patterns: list[str] | str | None, module: str) -> str:
    """A list names modules or the ends of their names, a text is a pattern of the whole name."""
    if isinstance(patterns, str):
        return patterns if re.fullmatch(patterns, module) else ""
    names = patterns or []
    return module if module in names else next((n for n in names if module.endswith(f".{n}")), "")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


def shown_tensor(folder: Path, tensor: Tensor) -> str:
    """Where a tensor of an adapter is, for a sentence."""
    return f"{paths.shown(folder / WEIGHTS)}: {tensor.name}"
