"""Tiny random models in the real architectures, with SmolLM2's vocabulary or its beginning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    SmolLM3Config,
)

# Rows of no multiple of 128: WebGPU rounds the activations of those to int8, which a random model
# with its many near-ties does not bear.
SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.2,
}

ARCHITECTURES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2-untied": (Qwen2Config, {"tie_word_embeddings": False}),
    "phi3": (Phi3Config, {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "phi3-window": (
        Phi3Config,
        {"tie_word_embeddings": False, "num_key_value_heads": 4, "sliding_window": 8},
    ),
    "smollm3": (SmolLM3Config, {"tie_word_embeddings": True}),
    "smollm3-odd": (SmolLM3Config, {"tie_word_embeddings": True, "no_rope_layers": [0, 1, 1, 0]}),
}

VOCABULARY: int = SHAPE["vocab_size"]
FEW_TOKENS = 8192
"""A vocabulary for a browser: a software adapter's time for a token goes into the rows of the language
model head, and the whole vocabulary makes ten seconds of one."""


def write_tiny(folder: Path, architecture: str, tokenizer: Path, **changes: Any) -> Path:
    """Save a random bf16 model of the architecture to `folder`, the same for the same arguments."""
    kind, extra = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**(SHAPE | extra | changes)))
    with torch.no_grad():  # biases start at zero, which would hide their being left out
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer / name, folder / name)
    if model.config.vocab_size < VOCABULARY:
        (folder / "tokenizer.json").write_text(first_tokens(tokenizer, model.config.vocab_size))
    return folder


def first_tokens(tokenizer: Path, count: int) -> str:
    """tokenizer.json of the first `count` tokens; its merges come in the order they were learned."""
    cut = json.loads((tokenizer / "tokenizer.json").read_text())
    model = cut["model"]
    model["vocab"] = {token: place for token, place in model["vocab"].items() if place < count}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    return json.dumps(cut)
