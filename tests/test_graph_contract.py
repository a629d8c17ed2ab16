"""A graph computes what PyTorch computes, or the key of config.json that it ignores is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from shared.base import paths
from shared.base.errors import RungFailed
from shared.olive.graph import architecture as graph_contract
from shared.olive.graph import mobius
from shared.olive.graph.architecture import NEEDED, check_config, check_graph, judge, verdict_on
from shared.olive.graph.comparison import compare, least_cosine, random_model, sample
from shared.olive.graph.small_config import arithmetic, miniature
from shared.olive.graph.wrong_key import faults

SIZES: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "factor": 4.0,
}
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
WINDOW = {"sliding_window": 100}
NO_WINDOW = {"sliding_window": 4096}
MIXED = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
ONE_ROPE = {
    kind: {"rope_type": "default", "rope_theta": 1e4}
    for kind in ("full_attention", "sliding_attention")
}


def config(model_type: str, **changes: Any) -> Any:
    if model_type in ("bart", "gpt2"):  # their sizes have other names
        return AutoConfig.for_model(model_type)
    return AutoConfig.for_model(model_type, **(SIZES | changes))


BUILT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama with mlp_bias": ("llama", {"mlp_bias": True}),
    "llama with attention_bias": ("llama", {"attention_bias": True}),
    "llama with its own head size": ("llama", {"head_dim": 48}),
    "llama with one key-value head": ("llama", {"num_key_value_heads": 1}),
    "llama with gelu": ("llama", {"hidden_act": "gelu"}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "linear rope": ("llama", {"rope_parameters": LINEAR}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "yarn with an attention_factor": (
        "llama",
        {"rope_parameters": YARN | {"attention_factor": 0.7}},
    ),
    "yarn with an attention_factor of 1": (
        "llama",
        {"rope_parameters": YARN | {"attention_factor": 1.0}},
    ),
    "yarn with mscale": (
        "qwen2",
        {"rope_parameters": YARN | {"mscale": 0.5, "mscale_all_dim": 0.3}},
    ),
    "smollm3 with mlp_bias": ("smollm3", {"mlp_bias": True}),
    "smollm3 with attention_bias": ("smollm3", {"attention_bias": True}),
    "smollm3 with odd layers without rope": ("smollm3", {"no_rope_layers": [0, 1, 1, 0]}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "a window on mistral": ("mistral", {"sliding_window": 100}),
    "a window on phi3": ("phi3", {"sliding_window": 100}),
    "a window that no text reaches": ("qwen2", {"use_sliding_window": True} | NO_WINDOW),
    "gemma": ("gemma", {"head_dim": 32}),
    "gemma2 with its softcaps": ("gemma2", {"head_dim": 32} | NO_WINDOW),
    "gemma2 with another scale": (
        "gemma2",
        {"head_dim": 32, "query_pre_attn_scalar": 100} | NO_WINDOW,
    ),
    "granite with its multipliers": (
        "granite",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0078125,
            "logits_scaling": 16.0,
        },
    ),
    "olmo2": ("olmo2", {"attention_bias": True}),
    "starcoder2 without biases": ("starcoder2", {"use_bias": False}),
    "phi3": ("phi3", {}),
    "cohere with its logit scale": ("cohere", {"logit_scale": 0.0625}),
    "ernie4_5 with biases": ("ernie4_5", {"use_bias": True, "head_dim": 16}),
    "helium": ("helium", {"head_dim": 16}),
    "seed_oss with biases": (
        "seed_oss",
        {"attention_bias": True, "attention_out_bias": True, "head_dim": 16},
    ),
}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window on some layers of qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        "sliding_window: not honoured for qwen2 models",
    ),
    "a window on smollm3": (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 8},
        "sliding_window: not honoured for smollm3 models",
    ),
    "a window on some layers of gemma3": (
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 32} | WINDOW | MIXED,
        "sliding_window and rope_parameters (one for each kind of layer): not honoured",
    ),
    "another scale of gemma3's queries": (
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 100, "rope_parameters": ONE_ROPE}
        | NO_WINDOW
        | MIXED,
        "query_pre_attn_scalar: not honoured for gemma3_text models",
    ),
    "a window on some layers of gemma2": (
        "gemma2",
        {"head_dim": 32} | WINDOW,
        "sliding_window: not honoured for gemma2 models",
    ),
    "long rope": (
        "phi3",
        {"rope_parameters": LONG, "original_max_position_embeddings": 128},
        "rope_parameters: longrope is wrong beyond the original context",
    ),
    "dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
        "rope_parameters: not honoured for llama models: dynamic: the graph's logits have cosine",
    ),
    "yarn that does not truncate": (
        "llama",
        {"rope_parameters": YARN | {"truncate": False}},
        "rope_parameters.truncate: not honoured for llama models",
    ),
    "clipped queries": ("olmo", {"clip_qkv": 3.0}, "clip_qkv: not honoured for olmo models"),
    "query norms of cohere": ("cohere", {"use_qk_norm": True}, "use_qk_norm: not honoured"),
    "partial rope on phi3": (
        "phi3",
        {"rope_parameters": HALF},
        "partial_rotary_factor: not honoured for phi3 models: the graph does not load",
    ),
    "stablelm, which does not load": (
        "stablelm",
        {},
        "partial_rotary_factor: not honoured for stablelm models: the graph does not load",
    ),
    "nemotron, which does not load": (
        "nemotron",
        {"head_dim": 16},
        "partial_rotary_factor: not honoured for nemotron models: the graph does not load",
    ),
    "hunyuan": ("hunyuan_v1_dense", {"head_dim": 16}, "model_type: 'hunyuan_v1_dense'"),
    "biases of mistral, which transformers' own class has none of": (
        "mistral",
        {"attention_bias": True},
        "attention_bias: not honoured for mistral models: the weights have no tensor",
    ),
    "one layer without experts": (
        "qwen2_moe",
        {"mlp_only_layers": [1]},
        "mlp_only_layers: not honoured for qwen2_moe models",
    ),
    "a head size of no multiple of 8": ("llama", {"head_dim": 20}, "head_dim: 20 does not fit"),
    "a head size of no multiple of 16": ("llama", {"head_dim": 24}, "head_dim: 24 does not fit"),
    "a head size that no key names": (
        "qwen2",
        {"hidden_size": 96},
        "head_dim: 24 does not fit the runtime",
    ),
    "an operator that WebGPU lacks": ("apertus", {}, "model_type: 'apertus': Softplus: "),
    "a model that reads and writes": ("bart", {}, "model_type: 'bart' is built for seq2seq"),
    "a model that counts positions itself": (
        "gpt2",
        {},
        "model_type: 'gpt2': the graph wants the input 'position_ids'",
    ),
}


@pytest.mark.parametrize(("model_type", "changes"), BUILT.values(), ids=BUILT)
def test_what_the_graph_honours_is_built(
    model_type: str, changes: dict[str, Any], root: Path
) -> None:
    agreement = check_config(config(model_type, **changes), "config.json")
    assert agreement.least >= NEEDED


@pytest.mark.parametrize(("model_type", "changes", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_the_graph_gets_wrong_is_refused_by_the_key(
    model_type: str, changes: dict[str, Any], sentence: str, root: Path
) -> None:
    made = config(model_type, **changes)
    with pytest.raises(RungFailed) as caught:
        check_config(made, "config.json")
    assert str(caught.value).startswith(f"config.json: {sentence}")
    assert len(str(caught.value).splitlines()) == 1
    assert "/tmp/" not in str(caught.value)


def test_two_keys_at_fault_are_both_named(root: Path) -> None:
    rope = YARN | {"truncate": False}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    made = config("qwen2", **window, rope_parameters=rope)
    refusal = str(verdict_on(made).refusal)
    assert refusal.startswith("sliding_window and rope_parameters.truncate: not honoured")


class TestAFolder:
    def test_is_compared_by_its_config_alone(self, root: Path) -> None:
        config("llama", mlp_bias=True).save_pretrained(root / "model")
        assert check_graph(root / "model").least >= NEEDED

    def test_is_named_in_the_refusal(self, root: Path) -> None:
        config("llama", head_dim=24).save_pretrained(root / "models" / "mine")
        with pytest.raises(RungFailed, match=r"^models/mine/config.json: head_dim: 24"):
            check_graph(root / "models" / "mine")

    def test_of_full_size_takes_no_longer(self, root: Path) -> None:
        wide = {"hidden_size": 5120, "num_attention_heads": 64, "num_key_value_heads": 8}
        long = {"num_hidden_layers": 64, "max_position_embeddings": 131072, "vocab_size": 151936}
        made = config("qwen3", head_dim=128, intermediate_size=25600, **wide, **long)
        small = miniature(made)
        assert sum(p.numel() for p in random_model(small).parameters()) < 10_000_000
        assert check_config(made, "config.json").least >= NEEDED


class TestTheCosine:
    def test_counts_the_length_too(self) -> None:
        import numpy as np

        row = np.ones((1, 8), np.float32)
        assert least_cosine(row, row) == 1
        assert least_cosine(row / 16, row) < 0.2

    @pytest.mark.parametrize(
        ("model_type", "key", "wrong"),
        [
            ("llama", "mlp_bias", False),
            ("granite", "logits_scaling", 1.0),
            ("gemma2", "final_logit_softcapping", 0.0),
            ("gemma2", "attn_logit_softcapping", 0.0),
            ("llama", "rms_norm_eps", 1e-6),
            ("llama", "rope_theta", 11000.0),
            ("helium", "rope_interleave", False),
        ],
    )
    def test_falls_where_the_graph_reads_a_key_wrongly(
        self, model_type: str, key: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extra: dict[str, Any] = {"logits_scaling": 4.0} if model_type == "granite" else {}
        extra |= {"mlp_bias": True} if key == "mlp_bias" else {}
        extra |= {"head_dim": 16} if model_type in ("gemma2", "helium") else {}
        small = miniature(config(model_type, **extra, **NO_WINDOW))
        with sample(small) as made:
            assert compare(made).least >= NEEDED
        right = mobius.corrections
        monkeypatch.setattr(mobius, "corrections", lambda c: right(c) | {key: wrong})
        with sample(small) as made:
            assert compare(made).least < NEEDED


class TestTheFault:
    def test_is_none_where_nothing_helps(self) -> None:
        assert faults(miniature(config("llama")), lambda changed: False) == []

    def test_is_the_key_whose_switching_helps(self) -> None:
        small = miniature(config("llama", attention_bias=True, mlp_bias=True))
        assert faults(small, lambda changed: not changed.mlp_bias) == ["mlp_bias"]

    def test_is_every_key_that_must_be_switched(self) -> None:
        small = miniature(config("llama", attention_bias=True, mlp_bias=True))
        both = faults(small, lambda changed: not (changed.mlp_bias or changed.attention_bias))
        assert both == ["mlp_bias", "attention_bias"]


class TestTheVerdict:
    def test_is_kept_on_disk(self, root: Path, forget: Callable[[], None]) -> None:
        first = verdict_on(config("llama"))
        folders = list((root / "build" / "graph").glob("[!.]*"))
        written = folders[0].stat().st_mtime_ns
        forget()
        assert verdict_on(config("llama")) == first
        assert [f.stat().st_mtime_ns for f in folders] == [written]

    def test_is_kept_where_it_is_a_refusal(self, root: Path, forget: Callable[[], None]) -> None:
        first = verdict_on(config("llama", head_dim=24))
        manifest = next((root / "build" / "graph").glob("*/manifest.json"))
        assert json.loads(manifest.read_text())["facts"]["refusal"] == first.refusal
        forget()
        assert verdict_on(config("llama", head_dim=24)) == first

    @pytest.mark.parametrize(
        "change",
        [
            {"vocab_size": 2000},
            {"eos_token_id": 7},
            {"name_or_path": "somebody/something"},
            {"architectures": ["LlamaForCausalLM"]},
            {"dtype": "bfloat16"},
            {"num_hidden_layers": 6},
            {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4},
            {"initializer_range": 0.1},
        ],
        ids=str,
    )
    def test_does_not_depend_on_names_and_sizes(self, change: dict[str, Any]) -> None:
        assert arithmetic(miniature(config("llama", **change))) == arithmetic(
            miniature(config("llama"))
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"mlp_bias": True},
            {"attention_bias": True},
            {"head_dim": 32},
            {"hidden_act": "gelu"},
            {"rope_parameters": LINEAR},
            {"tie_word_embeddings": True},
            {"num_key_value_heads": 1},
        ],
        ids=str,
    )
    def test_depends_on_what_changes_the_arithmetic(self, change: dict[str, Any]) -> None:
        assert arithmetic(miniature(config("llama", **change))) != arithmetic(
            miniature(config("llama"))
        )


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """As in a new process: what this one remembers is gone."""
    monkeypatch.setattr(graph_contract, "_kept", {})
    return lambda: graph_contract._kept.clear()


def test_a_judgement_leaves_no_files_and_no_random_state(root: Path) -> None:
    import torch

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    judge(miniature(config("llama")))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not (paths.build() / "graph").exists()
