"""What is said of common models without torch is what transformers' own model says."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks import architectures
from shared.base.errors import RungFailed
from shared.source.dense import ACTIVATIONS, KINDS, config_mistake, dense_model
from shared.source.described import described_model

CONFIG: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DIMENSIONS = list(CONFIG)[:7]
CHANGES: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"use_bias": False},
    {"use_bias": True},
    {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    {"num_hidden_layers": 5, "sliding_window": 8, "rms_norm_eps": 1e-6},
    {"attention_bias": False, "mlp_bias": False, "num_key_value_heads": 1},
]


def both(folder: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    (folder / "config.json").write_text(json.dumps(config))
    return dense_model(config), described_model(folder)


@pytest.mark.parametrize("model_type", KINDS)
def test_a_kind_has_the_tensors_that_transformers_gives_it(tmp_path: Path, model_type: str) -> None:
    for change in CHANGES:
        ours, theirs = both(tmp_path, CONFIG | change | {"model_type": model_type})
        assert ours == theirs, change
        assert list(ours.shapes) == list(theirs.shapes), change


@pytest.mark.parametrize("model_type", KINDS)
def test_a_dimension_that_config_json_leaves_out_is_the_same_or_not_said(
    tmp_path: Path, model_type: str
) -> None:
    for key in DIMENSIONS:
        left_out = {k: v for k, v in CONFIG.items() if k != key} | {"model_type": model_type}
        for config in (left_out, left_out | {key: None}):
            ours = dense_model(config)
            assert (ours is None) == (key != "head_dim" or KINDS[model_type].head_dim)
            with suppress(RungFailed):  # transformers has no such model
                assert ours in (None, both(tmp_path, config)[1])


@pytest.mark.parametrize(
    "change",
    [{key: wrong} for key in DIMENSIONS for wrong in (0, -4, 2.0, "8", True, [4])]
    + [{"hidden_size": 66, "head_dim": None}]
    + [{key: "yes"} for key in ("tie_word_embeddings", "attention_bias", "mlp_bias")]
    + [{"model_type": wrong} for wrong in ("mixtral", "gemma3_text", "", None, ["llama"])],
    ids=json.dumps,
)
def test_of_what_is_no_such_model_nothing_is_said(change: dict[str, Any]) -> None:
    assert dense_model(CONFIG | {"model_type": "llama"})
    assert dense_model(CONFIG | {"model_type": "llama"} | change) is None


@pytest.mark.parametrize(
    ("change", "key"),
    [({"hidden_act": "geluu"}, "hidden_act")]
    + [({key: -4}, key) for key in DIMENSIONS if key != "num_hidden_layers"]
    + [({"model_type": "smollm3", "no_rope_layers": [0]}, "no_rope_layers")],
    ids=str,
)
def test_what_is_called_a_mistake_is_one_for_transformers_too(
    tmp_path: Path, change: dict[str, Any], key: str
) -> None:
    config = CONFIG | {"model_type": "llama"} | change
    assert str(config_mistake(config)).startswith(f"{key}: ")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RungFailed):
        described_model(tmp_path)


def test_activations_are_those_of_transformers() -> None:
    from transformers.activations import ACT2CLS

    assert sorted(ACT2CLS) == sorted(ACTIVATIONS)


def test_the_kinds_are_among_those_that_are_built() -> None:
    assert architectures.built(architectures.DOCUMENT.read_text(encoding="utf-8")) >= set(KINDS)
