"""A tiny base and an adapter for it, written by hand; fixtures for both files of tests on adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.domain.domain import load_domain
from shared.domain.settings import Rung
from shared.source.adapter import CONFIG, WEIGHTS
from tests.hub_double import HubDouble

Tiny = Callable[[str], Path]
Spoil = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
Q, V, DOWN = "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"
TARGETS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
FIRST = f"base_model.model.model.layers.0.{Q}"


@pytest.fixture
def base(root: Path, few: Tiny) -> Path:
    """A base at models/base, an adapter for it at models/legal/adapter."""
    folder = root / "models" / "base"
    shutil.copytree(few("qwen2"), folder)
    write_adapter(root / "models" / "legal" / "adapter", folder)
    return folder


@pytest.fixture
def near(hub: HubDouble, root: Path, monkeypatch: pytest.MonkeyPatch) -> HubDouble:
    """The Hub double as the one that is asked, with a cache of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "cache"))
    return hub


def write_adapter(folder: Path, base: Path, spoil: Spoil = lambda config, tensors: None) -> Path:
    """The two files, by hand, as peft writes them: rank 4 on three layers of each of the four."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM3-3B",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "use_dora": False,
        **TARGETS,
    }
    generator, tensors = torch.Generator().manual_seed(5), dict[str, torch.Tensor]()
    for name, weight in load_file(base / "model.safetensors").items():
        if name.endswith(tuple(f"{module}.weight" for module in (Q, V, DOWN))):
            stem, (rows, columns) = name.removesuffix(".weight"), weight.shape
            for half, shape in (("A", (4, columns)), ("B", (rows, 4))):
                made = torch.randn(shape, generator=generator) * 0.2
                tensors[f"base_model.model.{stem}.lora_{half}.weight"] = made
    spoil(config, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS)
    return folder


def the_rung(**changes: Any) -> Rung:
    named = {"source": "models/base", "adapter": "models/legal/adapter", "licence": "apache-2.0"}
    return load_domain("legal").rung("smollm3").model_copy(update=named | changes)
