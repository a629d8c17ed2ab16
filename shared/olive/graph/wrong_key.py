"""Which key of a configuration makes its graph disagree with PyTorch: switched one at a time.

A candidate is a key and the values that take its arithmetic away: `mlp_bias` false, `sliding_window`
null with every layer a full one, rope of the default type. The first that makes graph and PyTorch
agree is the fault. Where none does alone, all are switched together and put back one by one.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any

from shared.olive.graph.small_config import NOT_ARITHMETIC, Values, head_size, ropes, with_values

Agrees = Callable[[Any], bool]

SECONDS = 30.0
PER_KIND = "rope_parameters (one for each kind of layer)"
NEVER_FELT = 1 << 20
HEAD_STEP = 16
"""onnxruntime's GroupQueryAttention rotates heads of a multiple of this size."""

NEUTRAL: Values = {
    "mlp_bias": False,
    "attention_bias": False,
    "attention_out_bias": False,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": False,
    "qk_layernorm": False,
    "clip_qkv": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "partial_rotary_factor": 1.0,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "use_bidirectional_attention": False,
    "hidden_act": "silu",
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": False,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
}
"""What a key says where it changes nothing, or what every graph can do."""

ROPE_BASICS = (
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
)
"""Settings without which a rope of its type is none."""

ROPE_NEUTRAL = {"partial_rotary_factor": 1.0, "llama_4_scaling_beta": 0.0}


def faults(config: Any, agrees: Agrees) -> list[str]:
    """The keys of a (small) configuration at fault; empty where no key explains it.

    A kind of layer is blamed last: a fault of two keys would be hidden by it.
    """
    until = time.monotonic() + SECONDS

    def agreeing(*changes: Values) -> bool:
        changed = _changed(config, *changes) if time.monotonic() < until else None
        return changed is not None and agrees(changed)

    changes: dict[str, Values] = {}
    for name, change in candidates(config):
        changes.setdefault(name, change)
    for name, change in changes.items():
        if agreeing(change):
            return [name]
    if several := _together(changes, agreeing):
        return several
    return [name for name, change in _kinds(config.to_dict()) if agreeing(change)][:1]


def candidates(config: Any) -> Iterator[tuple[str, Values]]:
    """(key, what to change) for each key that could be at fault, the likeliest first."""
    values = config.to_dict()
    yield from _heads(config, values)
    yield from _windows(values)
    yield from _rope(values)
    if 0 in (values.get("no_rope_layers") or []):
        yield "no_rope_layers", {"no_rope_layers": [1] * len(values["no_rope_layers"])}
    for name, neutral in NEUTRAL.items():
        if name in values and values[name] not in (neutral, None):
            yield name, {name: neutral}
    if values.get("query_pre_attn_scalar") not in (None, head_size(config)):
        yield "query_pre_attn_scalar", {"query_pre_attn_scalar": head_size(config)}
    yield from _unusual(config, values)


def _heads(config: Any, values: Values) -> Iterator[tuple[str, Values]]:
    size = head_size(config)
    if not size or size % HEAD_STEP == 0:
        return
    whole = -(-size // HEAD_STEP) * HEAD_STEP
    heads = config.attribute_map.get("num_attention_heads", "num_attention_heads")
    hidden = config.attribute_map.get("hidden_size", "hidden_size")
    width = {hidden: values[heads] * whole} if values[hidden] == values[heads] * size else {}
    yield "head_dim", width | ({"head_dim": whole} if "head_dim" in values else {})


def _windows(values: Values) -> Iterator[tuple[str, Values]]:
    for name in ("sliding_window", "window_size", "attention_chunk_size"):
        if isinstance(values.get(name), int) and values[name] > 0:
            yield name, {name: NEVER_FELT}


def _kinds(values: Values) -> Iterator[tuple[str, Values]]:
    """All layers of one kind, without a window: where that agrees, the other kind is the fault."""
    kinds = values.get("layer_types") or []
    inert: Values = {}
    for _, change in _windows(values):
        inert |= change
    for kind, other in permutations(sorted(set(kinds)), 2):
        if len(set(kinds)) == 2:
            yield f"layer_types: {other}", inert | {"layer_types": [kind] * len(kinds)}


def _rope(values: Values) -> Iterator[tuple[str, Values]]:
    """Each setting of the rope alone, then the whole of it."""
    kinds = list(ropes(values))
    for name in {name: None for rope in kinds for name in rope if name not in ROPE_BASICS}:
        neutral = ROPE_NEUTRAL.get(name)
        if any(rope.get(name) not in (None, neutral) for rope in kinds):
            top = {name: neutral} if name in values else {}
            label = name if name == "partial_rotary_factor" else f"rope_parameters.{name}"
            yield label, {"rope_parameters": partial(_without, name=name, neutral=neutral)} | top
    if any(rope != kinds[0] for rope in kinds):
        yield PER_KIND, {"rope_parameters": partial(_same_rope, rope=kinds[0])}
    if any(rope.get("rope_type", "default") != "default" for rope in kinds):
        yield "rope_parameters", {"rope_parameters": _default_rope}


def _without(rope: Values, name: str, neutral: float | None) -> Values:
    kept = {key: value for key, value in rope.items() if key != name}
    return kept if neutral is None else kept | {name: neutral}


def _same_rope(_: Values, rope: Values) -> Values:
    return dict(rope)


def _default_rope(rope: Values) -> Values:
    return {"rope_type": "default", "rope_theta": rope.get("rope_theta", 10000.0)}


def _unusual(config: Any, values: Values) -> Iterator[tuple[str, Values]]:
    """Switches and factors that differ from what the class takes by itself; no sizes."""
    try:
        usual = type(config)().to_dict()
    except Exception:  # a class that cannot be made of nothing
        return
    for name, value in values.items():
        scalar = isinstance(value, bool | float | str)
        skipped = name in (*NEUTRAL, *NOT_ARITHMETIC, *COUPLED) or name.endswith(EPSILONS)
        if scalar and not skipped and name in usual and usual[name] != value:
            yield name, {name: usual[name]}


EPSILONS = ("_eps", "_epsilon")
COUPLED = ("model_type", "use_sliding_window")
"""Not switched alone: the class would change other keys with it."""


def _together(changes: dict[str, Values], agreeing: Callable[..., bool]) -> list[str]:
    """Several keys at fault: with all switched it agrees; put back one by one, the others stay."""
    needed = dict(changes)
    if len(changes) < 2 or not agreeing(*changes.values()):
        return []
    for name in reversed(changes):
        fewer = {other: change for other, change in needed.items() if other != name}
        if agreeing(*fewer.values()):
            needed = fewer
    return list(needed)


def _changed(config: Any, *changes: Values) -> Any:
    """The configuration with the changes; None where its class refuses them."""
    values = config.to_dict()
    for change in changes:
        for name, new in change.items():
            values[name] = _each_rope(values[name], new) if callable(new) else new
    try:
        return with_values(config, values)
    except Exception:  # validation errors of many kinds: then it is no explanation
        return None


def _each_rope(found: Values, change: Callable[[Values], Values]) -> Values:
    if any(isinstance(value, dict) for value in found.values()):
        return {k: change(v) if isinstance(v, dict) else v for k, v in found.items()}
    return change(found)
