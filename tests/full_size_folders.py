"""Model folders of full size that cannot serve: sparse files, which take no disk, and no torch.

Run by itself it prints what the chain says of each, whether torch was imported to say it, and in how
many seconds of CPU with our imports; transformers' are counted for the first kind that needs them.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shared.base import paths
from shared.pipeline.one_domain import release_domain
from shared.pipeline.stages import Options
from shared.source.dense import dense_model
from shared.source.weights import INDEX, SINGLE

CONFIG: dict[str, Any] = {
    "model_type": "smollm3",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"
NO_SYSTEM = "{{ raise_exception('System role not supported') }}"
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
LAYER = "model.layers.7"
DOWN = f"{LAYER}.mlp.down_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

Spoil = Callable[[Path], object]
Tensors = dict[str, tuple[str, tuple[int, ...]]]
BYTES = {"BF16": 2, "I32": 4}


def good() -> Tensors:
    """What SmolLM3-3B's file holds: name → type and shape."""
    model = dense_model(CONFIG)
    assert model
    return {name: ("BF16", shape) for name, shape in model.shapes.items() if name != HEAD}


def write(file: Path, tensors: Tensors) -> None:
    """A safetensors file whose data is a hole."""
    at, header = 0, {}
    for name, (dtype, shape) in tensors.items():
        end = at + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + at)


def make(folder: Path, spoil: Spoil) -> None:
    """A whole folder of SmolLM3-3B, then spoilt."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder / SINGLE, good())
    configure(folder, CONFIG)
    number_tokens(folder, CONFIG["vocab_size"])
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(CHAT)
    spoil(folder)


def number_tokens(folder: Path, count: int) -> None:
    """A tokenizer whose tokens are the numbers."""
    model = {"type": "WordLevel", "vocab": {str(n): n for n in range(count)}, "unk_token": "0"}
    text = json.dumps({"version": "1.0", "added_tokens": [], "model": model})
    (folder / "tokenizer.json").write_text(text)


def without(*names: str) -> Spoil:
    return lambda f: write(f / SINGLE, {n: t for n, t in good().items() if n not in names})


def having(more: Tensors) -> Spoil:
    return lambda f: write(f / SINGLE, good() | more)


def chatting(template: str) -> Spoil:
    return lambda f: (f / "chat_template.jinja").write_text(template)


def unknown(folder: Path) -> None:
    """A model whose tensors arithmetic does not know, whose template cannot render."""
    configure(folder, CONFIG | {"tie_word_embeddings": "yes"})
    chatting("{%")(folder)


def cut(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[:1000])


def configured(**keys: Any) -> Spoil:
    return lambda f: configure(f, CONFIG | keys)


def configure(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def prefixed(folder: Path) -> None:
    write(folder / SINGLE, {f"base_model.model.{n}": t for n, t in good().items()})


def sharded(folder: Path, written: Iterable[str] = SHARDS, beside: bool = False) -> None:
    """The folder as shards with an index, of which some are there; `beside`: and the single file."""
    where = {name: SHARDS["layers.2" in name] for name in good()}
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    for file in written:
        write(folder / file, {n: t for n, t in good().items() if where[n] == file})
    if not beside:
        (folder / SINGLE).unlink()


BAD: dict[str, tuple[Spoil, str]] = {
    "a tensor missing": (without(DOWN), f"{DOWN}: missing, like 1 of the 327 tensors"),
    "a norm missing": (
        without("model.norm.weight"),
        "model.norm.weight: missing, like 1 of the 327",
    ),
    "an untied head missing": (
        configured(tie_word_embeddings=False),
        f"{HEAD}: missing, like 1 of the 327 tensors of the model that config.json describes; "
        "tie_word_embeddings is false in config.json",
    ),
    "another shape": (
        having({DOWN: ("BF16", (11008, 2048))}),
        f"{DOWN}: shape [11008, 2048], config.json asks for [2048, 11008]",
    ),
    "a longer table": (
        having({TABLE: ("BF16", (128258, 2048))}),
        f"vocab_size: 128256, but {TABLE} in {SINGLE} has 128258 rows",
    ),
    "biases that config.json has not": (
        having({f"{LAYER}.self_attn.q_proj.bias": ("BF16", (2048,))}),
        f"{LAYER}.self_attn.q_proj.bias: the model that config.json describes has no such tensor",
    ),
    "another head": (
        having({"value_head.weight": ("BF16", (1, 2048))}),
        "value_head.weight: the model that config.json describes has no such tensor (1 of 327",
    ),
    "a layer too many": (
        having({"model.layers.36.input_layernorm.weight": ("BF16", (2048,))}),
        "num_hidden_layers: 36, but the weights have 37 layers",
    ),
    "a layer too few": (
        without(*(n for n in good() if n.startswith("model.layers.35."))),
        "num_hidden_layers: 36, but the weights have 35 layers",
    ),
    "an adapter not merged": (
        having({f"{LAYER}.self_attn.q_proj.lora_A.weight": ("BF16", (8, 2048))}),
        "lora_A.weight: a tensor of an adapter that was not merged",
    ),
    "an adapter beside": (
        lambda f: write(f / "adapter_model.safetensors", {}),
        "adapter_model.safetensors: an adapter beside the weights",
    ),
    "a wrapper's names": (prefixed, "every tensor's name begins with 'base_model.model.'"),
    "two sets of weights": (
        lambda f: sharded(f, beside=True),
        f"holds two sets of weights, {SINGLE} and what {INDEX} names",
    ),
    "a shard absent": (
        lambda f: sharded(f, SHARDS[:1]),
        f"{INDEX}: weight_map: '{SHARDS[1]}' is not here",
    ),
    "a packed tensor": (
        having({DOWN: ("I32", (2048, 1376))}),
        f"{DOWN}: weights of type I32; 16-bit ones are needed",
    ),
    "a note of a quantisation": (
        configured(quantization_config={"quant_method": "bitsandbytes"}),
        "quantization_config: left over from a quantised base",
    ),
    "no chat template": (
        lambda f: (f / "chat_template.jinja").unlink(),
        "tokenizer_config.json: chat_template: missing",
    ),
    "a tokenizer cut short": (cut, "tokenizer.json: no tokenizer can be loaded from it"),
    "a template cut short": (
        chatting("{% for m in messages %}{{ m.content }}"),
        "chat_template.jinja: chat_template: cannot render a system prompt and a question",
    ),
    "a template cut short, of a model that only transformers knows": (
        unknown,
        "chat_template.jinja: chat_template: cannot render a system prompt and a question",
    ),
    "a template that refuses a system message": (
        chatting(CHAT + "{% if messages[0].role == 'system' %}" + NO_SYSTEM + "{% endif %}"),
        "cannot render a system prompt and a question: System role not supported",
    ),
    "a template that would run code": (
        chatting("{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        "cannot render a system prompt and a question",
    ),
    "a template that loses the system prompt": (
        chatting("{{ messages[-1].content }}"),
        "leaves out the system prompt",
    ),
    "a template that loses the question": (
        chatting("{{ messages[0].content }}"),
        "leaves out what the user says",
    ),
    "more tokens than rows": (
        lambda f: number_tokens(f, 128300),
        "tokenizer.json: 128300 tokens, but the model has only 128256 rows",
    ),
    "an unknown activation": (
        configured(hidden_act="geluu"),
        "config.json: hidden_act: 'geluu' is no activation that transformers knows; did you mean",
    ),
    "no heads": (
        configured(num_attention_heads=0),
        "config.json: num_attention_heads: 0; a size of at least 1 is wanted",
    ),
    "layers without a word on their rope": (
        configured(no_rope_layers=[1, 1, 1, 0]),
        "config.json: no_rope_layers: 4 entries for num_hidden_layers 36",
    ),
    "an end token beyond the vocabulary": (
        configured(eos_token_id=128300),
        "config.json: eos_token_id: 128300 is no token of a vocabulary of 128256",
    ),
}
"""What is wrong → how, and the sentence that a person reads, without torch."""

NONSENSE: dict[str, tuple[Spoil, str]] = {
    "an unknown kind of model": (configured(model_type="no_such_thing"), "`no_such_thing`"),
    "no language model": (
        configured(model_type="fnet"),
        "model_type: 'fnet' is no causal language model",
    ),
}
"""What only transformers can say of a config.json, with torch."""


def main() -> None:
    imported, said = time.process_time(), {}
    for kind, (spoil, _) in (BAD | NONSENSE).items():
        make(paths.root() / "models" / "legal" / "merged", spoil)
        began = time.process_time() - imported
        chain = release_domain("legal", Options(rung="smollm3")).chain
        reason = chain.attempts[0].reason if chain else None
        said[kind] = [reason, "torch" in sys.modules, time.process_time() - began]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
