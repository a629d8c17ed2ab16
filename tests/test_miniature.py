"""A miniature keeps what changes the arithmetic: kinds of layers, head size, window, rope."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from shared.olive.graph.comparison import random_model
from shared.olive.graph.small_config import head_size, miniature
from tests.test_graph_contract import LLAMA3, config


class TestAMiniature:
    def test_keeps_the_kinds_of_layers(self) -> None:
        small = miniature(AutoConfig.for_model("smollm3"))
        assert small.no_rope_layers == [1, 1, 1, 0]
        small = miniature(AutoConfig.for_model("gemma3_text"))
        assert small.layer_types == ["sliding_attention"] * 5 + ["full_attention"]

    def test_chooses_layers_where_the_second_kind_comes_late(self) -> None:
        window = {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 28}
        small = miniature(AutoConfig.for_model("qwen2", **window))
        assert small.layer_types == ["full_attention", "full_attention", "sliding_attention"]
        assert small.sliding_window == 8

    @pytest.mark.parametrize("size", [48, 64, 80, 96, 128, 256])
    def test_keeps_head_size_and_ratio(self, size: int) -> None:
        made = config("llama", num_attention_heads=32, num_key_value_heads=8, head_dim=size)
        small = miniature(made)
        assert head_size(small) == size
        assert small.num_attention_heads == 4 * small.num_key_value_heads

    def test_keeps_whether_heads_fill_the_hidden_size(self) -> None:
        for hidden in (1024, 2048):
            made = config("qwen3", hidden_size=hidden, num_attention_heads=16, head_dim=128)
            small = miniature(made)
            filled = small.num_attention_heads * small.head_dim == small.hidden_size
            assert filled == (hidden == 2048)

    def test_goes_past_window_and_original_context(self) -> None:
        made = config("llama", rope_parameters=LLAMA3, max_position_embeddings=1024)
        small = miniature(made)
        assert small.rope_parameters["original_max_position_embeddings"] == 32
        assert small.max_position_embeddings == 256

    def test_has_weights_that_leave_nothing_at_zero_or_one(self) -> None:
        model = random_model(miniature(config("starcoder2")))
        for name, value in model.named_parameters():
            assert value.std() > 0.1, name
