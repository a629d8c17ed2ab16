"""Roots with many domains, each with a small random model of its own, for the scaling benchmark."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, SmolLM3Config

from benchmarks.any_architecture import answer_at_most, take_any_architecture
from shared.base import paths
from shared.source.embedded import PACKAGE, embedded_model

SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
}
KINDS = (LlamaConfig, SmolLM3Config)
BALLAST = "model.layers.0.self_attn.rotary_emb.inv_freq"
"""A tensor that older checkpoints have, and that every model here passes over by its own word."""
ANSWER_TOKENS, TEXT_TOKENS = 16, 1024
"""Random models never stop by themselves; longer answers would measure nothing more. Nor would more
text for fidelity: it is our own overhead that counts."""


def make_world(root: Path, count: int, shape: dict[str, Any] = SHAPE) -> Path:
    """`count` domains d01, d02, … with different weights (about 18M values each), two architectures."""
    tokenizer = embedded_model(PACKAGE)
    template = sorted(p for p in (paths.REPOSITORY / "domains").iterdir() if p.is_dir())[0]
    shutil.rmtree(root, ignore_errors=True)
    for number in range(1, count + 1):
        name = f"d{number:02d}"
        shutil.copytree(template, root / "domains" / name)
        fit_for_small_models(root / "domains" / name)
        read_at_most(root / "domains" / name, TEXT_TOKENS)
        _write_model(root / "models" / name / "merged", number, tokenizer, shape)
    return root


def fit_for_small_models(domain: Path) -> None:
    take_any_architecture(domain.parent)
    answer_at_most(domain, ANSWER_TOKENS)


def read_at_most(domain: Path, tokens: int) -> None:
    """Give a domain [fidelity] tokens, in the place of those that it was given before."""
    settings = domain / "fallback.toml"
    text, _, _ = settings.read_text(encoding="utf-8").partition("\n[fidelity]\n")
    settings.write_text(f"{text}\n[fidelity]\ntokens = {tokens}\n", encoding="utf-8")


def _write_model(folder: Path, number: int, tokenizer: Path, shape: dict[str, Any]) -> None:
    torch.manual_seed(number)
    config = KINDS[number % len(KINDS)](**shape)
    AutoModelForCausalLM.from_config(config, trust_remote_code=False).to(
        torch.bfloat16
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer / name, folder / name)


def add_ballast(folder: Path, size: int) -> None:
    """Make the model's weights `size` bytes long by a tensor that no model reads, a hole on the disk.

    It is hashed, inspected and watched like any other weight; only building it costs nothing.
    """
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
    where = dict.fromkeys(names, "model-00001.safetensors") | {BALLAST: "model-00002.safetensors"}
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    header = {BALLAST: {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size // 2 * 2]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model-00002.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size // 2 * 2)


def disk_floor(folder: Path, size: int = 1 << 30) -> tuple[float, float]:
    """Bytes per second this disk writes (until they are down) and reads back, one file, once."""
    file = folder / "floor.bin"
    folder.mkdir(parents=True, exist_ok=True)
    block = os.urandom(1 << 24)
    started = time.monotonic()
    with file.open("wb") as out:
        for _ in range(size // len(block)):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    wrote = size / (time.monotonic() - started)
    with file.open("rb") as out:
        if hasattr(os, "posix_fadvise"):  # out of the page cache, or memory is what is measured
            os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.monotonic()
        while out.read(1 << 24):
            pass
    read = size / (time.monotonic() - started)
    file.unlink()
    return wrote, read
