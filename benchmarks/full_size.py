"""Random weights in the real shape of the three architectures people release, written in shards.

Random weights say nothing about quality; they have the bytes, the tensors and the names. The
configurations are those of HuggingFaceTB/SmolLM3-3B, microsoft/Phi-3-mini-4k-instruct and
Qwen/Qwen2.5-3B-Instruct; the tokenizer is the embedded model's, cut to the rows that the model has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    SmolLM3Config,
)

from shared.base.manifest import tool_versions
from shared.base.progress import bar
from shared.base.stage import Plan, Produced, run_stage
from shared.source.embedded import PACKAGE, embedded_model

SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
BLOCK_SIZE = {"smollm3": 32, "phi3": 128, "qwen2.5": 32}
"""As the rungs of fallback.toml have it."""

SHARD_BYTES = 2_000_000_000
TOKENIZER = "tokenizer.json"

ARCHITECTURES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "smollm3": (
        SmolLM3Config,
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 65536,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
            "tie_word_embeddings": True,
        },
    ),
    "phi3": (
        Phi3Config,
        {
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2.5": (
        Qwen2Config,
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "tie_word_embeddings": True,
        },
    ),
}


def full_size_model(architecture: str) -> Path:
    """The folder of the random full-size model, made on first use and kept in build/full-size/."""
    kind, settings = ARCHITECTURES[architecture]
    tokenizer = embedded_model(PACKAGE)
    plan = Plan(
        "full-size",
        inputs={"architecture": architecture},
        settings=settings,
        tools=tool_versions("transformers"),
        code=("benchmarks/full_size.py",),
    )
    return run_stage(
        plan, lambda work: write_random(kind(**settings, **SPECIAL), tokenizer, work)
    ).folder


def write_random(config: PretrainedConfig, tokenizer: Path, work: Path) -> Produced:
    """A model folder with random weights in `config`'s shape and that tokenizer."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    config.architectures = [type(model).__name__]
    config.save_pretrained(work)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    where: dict[str, str] = {}
    with bar("random weights", len(shapes), "tensors") as step:
        for number, shard in enumerate(_shards(shapes), start=1):
            name = f"model-{number:05d}.safetensors"
            save_file(shard, work / name, metadata={"format": "pt"})
            for tensor in shard:
                where[tensor] = name
                step(tensor)
    index = {"metadata": {}, "weight_map": where}
    (work / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer / name, work / name)
    text = (tokenizer / TOKENIZER).read_text(encoding="utf-8")
    (work / TOKENIZER).write_text(json.dumps(cut(json.loads(text), config.vocab_size)))
    return Produced()


def cut(tokenizer: dict[str, Any], rows: int) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json with the ids below `rows` only, the rows of a model.

    Ids are in the order of the merges, so what is left still splits any text, only smaller.
    """
    model = tokenizer["model"]
    kept = {token: i for token, i in model["vocab"].items() if i < rows}
    merges = [pair for pair in model["merges"] if "".join(pair) in kept]
    return {**tokenizer, "model": {**model, "vocab": kept, "merges": merges}}


def _shards(shapes: dict[str, torch.Size]) -> Iterator[dict[str, torch.Tensor]]:
    """bf16 tensors of up to SHARD_BYTES together; norms are ones, the rest N(0, 0.02²) repeated,
    from another place for each tensor: all alike, a layer in another's place would not be seen."""
    noise = torch.randn(2**24, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    noise = noise.to(torch.bfloat16)
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, shape in shapes.items():
        shard[name] = _random(name, shape, noise)
        size += shard[name].nbytes
        if size > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _random(name: str, shape: torch.Size, noise: torch.Tensor) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    start, count = crc32(name.encode()) % noise.numel(), shape.numel()
    return noise.repeat(-(-(start + count) // noise.numel()))[start : start + count].view(shape)


def calibration_texts(domain: str, vocabulary: int) -> list[list[int]]:
    """Token ids of the text that a release of the domain is calibrated on, by the embedded model's
    tokenizer."""
    from shared.domain.domain import load_domain
    from shared.olive.calibration_text import token_ids

    texts = token_ids(str(load_domain(domain).calibration_file), embedded_model(PACKAGE))
    return [[i % vocabulary for i in ids] for ids in texts]
