"""Adapters as people's tools save them: what lies beside the pairs and changes nothing is taken."""

# ruff: noqa: F401, F811 (pytest finds the fixture `base` by its name)
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.base.errors import RungFailed
from shared.source.adapter import CONFIG, WEIGHTS
from shared.source.model import model_weights
from shared.source.source import located, source_stage
from shared.source.tokenizer import chat_template
from tests.adapters import Tiny, base, the_rung
from tests.test_adapter import by_peft, in_float32, train


class TestAnAdapter:
    def test_passes_over_the_copy_of_a_head_that_peft_saved_and_refuses_another_head(
        self, root: Path, few: Tiny
    ) -> None:
        base = in_float32(few("qwen2-untied"), root / "models" / "base")
        adapter = root / "models" / "legal" / "adapter"
        train(base, adapter, {"target_modules": ["q_proj", "lm_head"]}, copies=True)
        tensors = load_file(adapter / WEIGHTS)
        [copy] = [name for name in tensors if "base_layer" in name]
        ours = model_weights(source_stage(the_rung()).folder)
        theirs = by_peft(base, adapter, "float32")
        assert torch.equal(ours["lm_head.weight"].to(torch.float32), theirs["lm_head.weight"])
        weights = load_file(base / "model.safetensors")
        other = weights | {"lm_head.weight": weights["lm_head.weight"] + 1}
        save_file(other, base / "model.safetensors", {"format": "pt"})  # trained on, in its place
        with pytest.raises(RungFailed, match="a trained or resized"):
            source_stage(the_rung())
        save_file(weights, base / "model.safetensors", {"format": "pt"})
        for changed in (tensors[copy] + 1, tensors[copy][:-8].clone()):
            save_file(tensors | {copy: changed}, adapter / WEIGHTS)
            with pytest.raises(RungFailed, match="a trained or resized"):
                source_stage(the_rung())
        save_file({copy: tensors[copy]}, adapter / WEIGHTS)
        with pytest.raises(RungFailed, match="has no lora_A and lora_B beside"):
            source_stage(the_rung())

    def test_tells_ranks_and_scaling_that_r_and_alpha_alone_do_not(
        self, root: Path, few: Tiny
    ) -> None:
        """For the card's training details."""
        base = in_float32(few("qwen2"), root / "models" / "base")
        adapter = root / "models" / "legal" / "adapter"
        train(
            base, adapter, {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}}
        )
        told = source_stage(the_rung()).done.manifest.facts["training"]
        r = json.loads((adapter / CONFIG).read_text())["r"]
        assert told["rank (r)"] == f"2 to {r}" and " to " in told["scaling"]

    def test_takes_the_chat_template_that_the_adapters_tokenizer_has(
        self, base: Path, root: Path
    ) -> None:
        """As an older transformers saves it; a file of the base's own would win over it."""
        adapter, template = (
            root / "models" / "legal" / "adapter",
            "{{ messages[0].content }} trained",
        )
        (base / "chat_template.jinja").write_text("{{ messages[0].content }} base")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(base / name, adapter / name)
        assert chat_template(located(the_rung())).endswith(" base")
        told = json.loads((adapter / "tokenizer_config.json").read_text())
        (adapter / "tokenizer_config.json").write_text(
            json.dumps(told | {"chat_template": template})
        )
        assert chat_template(located(the_rung())) == template

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("base_model_name_or_path", "unsloth/SmolLM3-3B-unsloth-bnb-4bit"),
            ("base_model_name_or_path", "/data/bases/smollm3"),
            ("base_model_name_or_path", "acme/smollm3-for-us"),
            ("corda_config", {"corda_method": "kpm"}),
        ],
    )
    def test_takes_a_key_that_changes_nothing(
        self, base: Path, root: Path, key: str, value: Any
    ) -> None:
        file = root / "models" / "legal" / "adapter" / CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
        assert located(the_rung())
