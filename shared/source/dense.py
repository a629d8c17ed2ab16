"""The model that a config.json describes, by arithmetic: dense decoders whose layers are all alike.

torch and transformers, whose import takes seconds, are not needed to refuse such a folder.

>>> dense_model({"model_type": "llama", "vocab_size": 32000, …}).shapes["model.norm.weight"]
(4096,)

None for any other model, and where config.json leaves a dimension to transformers. The tests compare
it with `shared.source.described`, type by type and key by key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.base.parsing import nearest
from shared.source.described import HEAD, Model

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
QKVO = (*QKV, "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
TABLE = "model.embed_tokens.weight"

ATTENTION = dict(zip(QKVO, ("qh", "kh", "kh", "hq"), strict=True))
GATED = dict(zip(MLP, ("ih", "ih", "hi"), strict=True))
NORMS = {"input_layernorm": "h", "post_attention_layernorm": "h"}
NORMS_AFTER = {"post_attention_layernorm": "h", "post_feedforward_layernorm": "h"}
"""Modules of a layer → the dimensions of their weight, by the letters of `_sizes`."""


@dataclass(frozen=True)
class Kind:
    """A model type: the modules of a layer, and which key of config.json gives which of them a bias
    ("": they always have one).

    `tied`, `biased`: what a missing key means; `head_dim`: that key may not be missing.
    """

    layer: Mapping[str, str] = field(default_factory=lambda: ATTENTION | GATED | NORMS)
    biases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"attention_bias": QKVO})
    tied: bool = False
    biased: bool = False
    head_dim: bool = False


BOTH = {"attention_bias": QKVO, "mlp_bias": MLP}
OLMO = ATTENTION | {"self_attn.q_norm": "q", "self_attn.k_norm": "k"} | GATED | NORMS_AFTER
QWEN3 = ATTENTION | {"self_attn.q_norm": "d", "self_attn.k_norm": "d"} | GATED | NORMS
PACKED = {
    "self_attn.o_proj": "hq",
    "self_attn.qkv_proj": "ph",
    "mlp.gate_up_proj": "gh",
    "mlp.down_proj": "hi",
}
STARCODER = ATTENTION | {"mlp.c_fc": "ih", "mlp.c_proj": "hi"} | NORMS
KINDS = {
    "gemma": Kind(tied=True, head_dim=True),
    "granite": Kind(biases=BOTH),
    "llama": Kind(biases=BOTH),
    "ministral": Kind(biases={}),
    "mistral": Kind(biases={}),
    "olmo2": Kind(OLMO),
    "olmo3": Kind(OLMO),
    "phi3": Kind(PACKED | NORMS, biases={}),
    "qwen2": Kind(biases={"": QKV}),
    "qwen3": Kind(QWEN3, head_dim=True),
    "smollm3": Kind(biases=BOTH, tied=True),
    "starcoder2": Kind(
        STARCODER,
        biases={"": (*NORMS,), "use_bias": (*QKVO, "mlp.c_fc", "mlp.c_proj")},
        tied=True,
        biased=True,
    ),
}


SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "num_hidden_layers",
)
ACTIVATIONS = tuple(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh "
    "hardswish laplace leaky_relu linear mish prelu quick_gelu relu relu2 relu6 sigmoid silu "
    "sqrtsoftplus swish tanh xielu".split()
)
"""transformers.activations.ACT2CLS."""


def config_mistake(config: dict[str, Any]) -> str | None:
    """The key of a config.json, if it is of one of KINDS, that no model can be made with, and why."""
    if str(config.get("model_type")) not in KINDS:
        return None
    activation = config.get("hidden_act")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        near = nearest(activation, list(ACTIVATIONS))
        return f"hidden_act: {activation!r} is no activation that transformers knows; {near}"
    for key in (*SIZES, "head_dim"):
        size = config.get(key)
        if type(size) is int and size < 1:
            return f"{key}: {size}; a size of at least 1 is wanted"
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict) and "su" in (scaling.get("type"), scaling.get("rope_type")):
        return (
            "rope_scaling: 'su' is an early name of longrope, which is wrong beyond the original "
            "context; use a model without it, like Phi-3-mini-4k"
        )
    pad, rows = config.get("pad_token_id"), config.get("vocab_size")
    if type(pad) is int and type(rows) is int and pad >= rows:
        return f"pad_token_id: {pad}, but vocab_size is {rows}: the embedding has no such row"
    roped, layers = config.get("no_rope_layers"), config.get("num_hidden_layers")
    if isinstance(roped, list) and isinstance(layers, int) and len(roped) < layers:
        return f"no_rope_layers: {len(roped)} entries for num_hidden_layers {layers}"
    return None


def dense_model(config: dict[str, Any]) -> Model | None:
    """The model of a config.json, if it is of one of KINDS and names all its dimensions."""
    kind = KINDS.get(str(config.get("model_type")))
    sizes = _sizes(config, kind) if kind else None
    if not kind or not sizes:
        return None
    tied = config.get("tie_word_embeddings", kind.tied)
    flags = {key: config.get(key, kind.biased) if key else True for key in kind.biases}
    if not all(isinstance(flag, bool) for flag in (tied, *flags.values())):
        return None
    biased = {module for key, modules in kind.biases.items() if flags[key] for module in modules}
    layer = dict(_tensors(kind.layer, sizes, biased))
    shapes: dict[str, tuple[int, ...]] = {TABLE: (sizes["v"], sizes["h"])}
    for index in range(sizes["layers"]):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    last = {"model.norm"} if "input_layernorm" in biased else set()
    shapes |= dict(_tensors({"model.norm": "h"}, sizes, last)) | {HEAD: shapes[TABLE]}
    return Model(TABLE, shapes, {HEAD: TABLE} if tied else {}, "model", (r"rotary_emb\.inv_freq$",))


def _tensors(
    modules: Mapping[str, str], sizes: dict[str, int], biased: set[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name → shape, in the order in which transformers has them."""
    for module, dimensions in modules.items():
        shape = tuple(sizes[letter] for letter in dimensions)
        yield f"{module}.weight", shape
        if module in biased:
            yield f"{module}.bias", shape[:1]


def _sizes(config: dict[str, Any], kind: Kind) -> dict[str, int] | None:
    """Hidden, intermediate, vocabulary, head dimension, queries, keys; gate and up as one, and queries,
    keys and values as one; layers. None where config.json leaves one out or it is no size."""
    wanted = [config.get(name) for name in SIZES]
    if not all(type(size) is int and size > 0 for size in wanted):
        return None
    hidden, heads, pairs, inner, rows, layers = (int(size or 0) for size in wanted)
    head = config.get("head_dim")
    if head is None and not kind.head_dim and hidden % heads == 0:
        head = hidden // heads
    if type(head) is not int or head <= 0:
        return None
    queries, keys = heads * head, pairs * head
    return {
        "h": hidden,
        "i": inner,
        "v": rows,
        "d": head,
        "q": queries,
        "k": keys,
        "g": 2 * inner,
        "p": queries + 2 * keys,
        "layers": layers,
    }
