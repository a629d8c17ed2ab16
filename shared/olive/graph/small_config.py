"""Miniature of a model configuration: few, small layers of the same arithmetic.

Kept: each kind of layer, head size, ratio of key-value heads, biases, norms, activation, rope type,
multipliers, tied or untied. Made small: vocabulary, width, depth, experts, and every length of text
(context, original context, window), so that a short text goes past each of them.
"""

from collections.abc import Iterator
from typing import Any

VOCABULARY = 96
ORIGINAL_CONTEXT = 32
WINDOW = 8
MAX_CONTEXT = 4096
CONTEXT = 64
MAX_LAYERS = 8
HIDDEN = 128
MAX_GROUP = 512
INTERMEDIATE = 160
EPSILON = 0.05
SOFTCAP = 2.0

Values = dict[str, Any]

NOT_ARITHMETIC = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "problem_type",
    "quantization_config",
    "return_dict",
    "router_aux_loss_coef",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Keys that change names, training or what else is returned; no logits."""

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id")
SMALL = {
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "vocab_size_per_layer_input": VOCABULARY,
    "pretraining_tp": 1,
    "num_layers": 2,
    "zero_expert_num": 2,
    "num_nextn_predict_layers": 0,
}
"""Counts that change no formula, only how often it is used."""

FELT = {
    "attn_logit_softcapping": SOFTCAP,
    "final_logit_softcapping": SOFTCAP,
    "clip_qkv": 1.0,
}
"""Limits that a random model would hardly reach: lowered until they are felt."""

PERIODS = ("interval", "pattern", "period", "every", "_step")
WIDTHS = ("intermediate", "ffn", "n_inner", "d_ff")


def miniature(config: Any) -> Any:
    """The configuration made small; its class and every key that changes a formula stay."""
    values = dict(config.to_dict())
    names = dict(config.attribute_map)
    _plain(values)
    _depth(values, names)
    _width(values, names, config)
    _lengths(values, names)
    for name, limit in SMALL.items():
        if isinstance(values.get(name), int) and not isinstance(values[name], bool):
            values[name] = min(values[name], limit)
    values |= {name: felt for name, felt in FELT.items() if values.get(name)}
    for name, value in values.items():
        if name.endswith(("_eps", "_epsilon")) and isinstance(value, float):
            values[name] = EPSILON
    return with_values(config, values)


def with_values(config: Any, values: Values) -> Any:
    """A configuration of the same class with these values."""
    kept = {k: v for k, v in values.items() if k not in ("model_type", "transformers_version")}
    return type(config).from_dict(kept)


def head_size(config: Any) -> int:
    """Values a head; 0 where the configuration tells none."""
    if isinstance(size := getattr(config, "head_dim", None), int):
        return size
    heads, hidden = getattr(config, "num_attention_heads", 0), getattr(config, "hidden_size", 0)
    return hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else 0


def arithmetic(config: Any) -> Values:
    """The keys and values on which the arithmetic depends."""
    return {k: v for k, v in config.to_dict().items() if k not in (*NOT_ARITHMETIC, *TOKEN_IDS)}


def ropes(values: Values) -> Iterator[Values]:
    """The rope settings: one, or one a kind of layer."""
    found = values.get("rope_parameters")
    if isinstance(found, dict):
        nested = [value for value in found.values() if isinstance(value, dict)]
        yield from nested or [found]


def _plain(values: Values) -> None:
    """Names, token ids and training settings as one value, so that they tell nothing apart."""
    for name in NOT_ARITHMETIC:
        values.pop(name, None)
    for name in values:
        if name.endswith(("_token_id", "_token_index")):
            values[name] = None if values[name] is None else 1
        elif "dropout" in name or name.endswith("_pdrop"):
            values[name] = 0.0 if isinstance(values[name], float) else values[name]
    values["vocab_size"] = VOCABULARY


def _depth(values: Values, names: dict[str, str]) -> None:
    """The first layers until each kind was there; a chosen few where that would be many."""
    key = names.get("num_hidden_layers", "num_hidden_layers")
    depth = values.get(key)
    if not isinstance(depth, int):
        return
    lists = [k for k, v in values.items() if isinstance(v, list) and len(v) == depth]
    kinds = [tuple(repr(values[name][layer]) for name in lists) for layer in range(depth)]
    chosen = _chosen(kinds, _interval(values, depth))
    values[key] = len(chosen)
    for name in lists:
        values[name] = [values[name][layer] for layer in chosen]
    if isinstance(values.get("max_window_layers"), int):
        values["max_window_layers"] = sum(i < values["max_window_layers"] for i in chosen)


def _chosen(kinds: list[tuple[str, ...]], interval: int) -> list[int]:
    last = max(kinds.index(kind) for kind in set(kinds))
    count = max(last + 1, interval, 2)
    if count <= MAX_LAYERS:
        return list(range(min(count, len(kinds))))
    return sorted({0, 1} | {kinds.index(kind) for kind in set(kinds)})[:MAX_LAYERS]


def _interval(values: Values, depth: int) -> int:
    """Layers until each kind was there, where keys tell it by a period or by layers' numbers."""
    found = [
        value
        for name, value in values.items()
        if isinstance(value, int) and any(word in name for word in PERIODS)
    ]
    for name in ("mlp_only_layers", "sparse_layers"):
        numbers = values.get(name)
        found += [n + 2 for n in numbers if isinstance(n, int)] if isinstance(numbers, list) else []
    return max((layers for layers in found if layers <= depth), default=0)


def _width(values: Values, names: dict[str, str], config: Any) -> None:
    hidden, heads, groups = (
        names.get(name, name)
        for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
    )
    if not all(isinstance(values.get(name), int) for name in (hidden, heads)):
        return
    size = head_size(config)
    width = values[hidden] / (values[heads] * size)
    ratio = max(1, values[heads] // (values.get(groups) or values[heads]))
    kept = 1 if values.get(groups) == 1 or ratio * size > MAX_GROUP else 2
    if isinstance(values.get(groups), int):
        values[groups] = kept
    values[heads] = kept * ratio if ratio > 1 else min(values[heads], 2)
    whole = values[heads] * size
    if "head_dim" in values:
        values["head_dim"] = size
    values[hidden] = whole if width == 1 else HIDDEN + HIDDEN * (whole == HIDDEN)
    for name, value in values.items():
        if isinstance(value, int) and any(part in name for part in WIDTHS) and value > 0:
            values[name] = INTERMEDIATE


def _lengths(values: Values, names: dict[str, str]) -> None:
    """Context, original context and windows, in proportion, shorter than the text compared on."""
    key = names.get("max_position_embeddings", "max_position_embeddings")
    context = values.get(key)
    context = context if isinstance(context, int) and context > 0 else None
    scaled = [rope for rope in ropes(values) if rope.get("rope_type", "default") != "default"]
    found = [rope.get(ORIGINAL) for rope in (*scaled, values)] if scaled else []
    original = next((length for length in found if length), None)
    small = CONTEXT
    if original and context:
        small = min(
            MAX_CONTEXT, max(ORIGINAL_CONTEXT, round(ORIGINAL_CONTEXT * context / original))
        )
    for settings in (values, *ropes(values)):
        if original and settings.get(ORIGINAL):
            settings[ORIGINAL] = ORIGINAL_CONTEXT
        if settings.get("max_position_embeddings") and settings is not values:
            settings["max_position_embeddings"] = small
    if context:
        values[key] = small
    for name in ("sliding_window", "window_size", "attention_chunk_size"):
        if isinstance(values.get(name), int) and values[name] > 0:
            values[name] = WINDOW if not context or values[name] < context else small


ORIGINAL = "original_max_position_embeddings"
