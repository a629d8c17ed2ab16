"""What people bring comes out as itself or is refused: names and shapes against config.json's model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig

from shared.base.errors import RungFailed
from shared.domain.domain import load_domain
from shared.evaluate.models.onnx import OnnxDecoder
from shared.olive.graph.architecture import build_graph
from shared.olive.graph.weights import Int4Options, write_int4
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options
from shared.source.contract import is_untied, source_contract
from shared.source.model import load_model, model_weights
from tests.tiny import VOCABULARY

Weights = dict[str, torch.Tensor]
DOWN = "model.layers.2.mlp.down_proj.weight"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folder(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A good folder with an untied head, to be spoilt by the test."""
    return Path(shutil.copytree(tiny("qwen2-untied"), tmp_path / "merged"))


def change(folder: Path, edit: Callable[[Weights], Weights | None]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(edit(weights) or weights, file, metadata={"format": "pt"})


def configure(folder: Path, **keys: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def refusal(folder: Path) -> str:
    with pytest.raises(RungFailed) as caught:
        source_contract(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_model_is_taken_with_every_tensor_by_name(folder: Path) -> None:
    found = source_contract(folder)
    assert found.tensors.keys() == found.model.shapes.keys()
    assert not found.passed_over


class TestATensorThatIsMissing:
    def test_is_named(self, folder: Path) -> None:
        change(folder, lambda w: {n: t for n, t in w.items() if n != DOWN})
        assert f"model.safetensors: {DOWN}: missing, like 1 of the" in refusal(folder)

    def test_may_be_a_head_that_config_json_does_not_tie(self, folder: Path) -> None:
        change(folder, lambda w: {n: t for n, t in w.items() if n != HEAD})
        sentence = refusal(folder)
        assert f"{HEAD}: missing" in sentence and "tie_word_embeddings is false" in sentence

    def test_is_none_where_the_other_of_a_tied_pair_is_there(self, folder: Path) -> None:
        configure(folder, tie_word_embeddings=True)
        change(folder, lambda w: {n: t for n, t in w.items() if n != EMBED})
        assert HEAD in source_contract(folder).tensors

    def test_may_be_a_whole_layer(self, folder: Path) -> None:
        configure(folder, num_hidden_layers=5, layer_types=None)
        assert "num_hidden_layers: 5, but the weights have 4 layers" in refusal(folder)


class TestATensorThatNobodyReads:
    def test_is_named(self, folder: Path) -> None:
        change(folder, lambda w: w | {"value_head.weight": torch.zeros(4)})
        sentence = refusal(folder)
        assert "value_head.weight" in sentence and "has no such tensor (1 of" in sentence

    def test_may_be_a_layer_more_than_config_json_says(self, folder: Path) -> None:
        configure(folder, num_hidden_layers=3, layer_types=None)
        assert "num_hidden_layers: 3, but the weights have 4 layers" in refusal(folder)

    def test_is_only_mentioned_where_the_model_itself_passes_over_it(self, folder: Path) -> None:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        change(folder, lambda w: w | {name: torch.zeros(8)})
        assert source_contract(folder).passed_over == (name,)

    @pytest.mark.parametrize(
        "name",
        [
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.layers.0.self_attn.q_proj.lora_B.default.weight",
            "model.layers.0.self_attn.q_proj.base_layer.weight",
            "model.layers.1.mlp.up_proj.lora_magnitude_vector.weight",
            "model.embed_tokens.lora_embedding_A",
            "lm_head.modules_to_save.default.weight",
        ],
    )
    def test_of_an_adapter_says_that_it_was_not_merged(self, folder: Path, name: str) -> None:
        change(folder, lambda w: w | {name: torch.zeros(2, 2)})
        sentence = refusal(folder)
        assert name in sentence and "not merged" in sentence and "merge_and_unload" in sentence


class TestAShape:
    def test_that_is_another_is_named_with_both(self, folder: Path) -> None:
        change(folder, lambda w: w | {DOWN: torch.zeros(64, 96)})
        assert f"{DOWN}: shape [64, 96], config.json asks for [64, 160]" in refusal(folder)

    def test_of_a_longer_table_names_vocab_size(self, folder: Path) -> None:
        change(folder, lambda w: w | {EMBED: torch.zeros(VOCABULARY + 8, 64)})
        sentence = (
            f"vocab_size: {VOCABULARY}, but {EMBED} in model.safetensors has {VOCABULARY + 8}"
        )
        assert sentence in refusal(folder)


class TestTwoSetsOfWeights:
    def test_a_single_file_beside_an_older_index_are_both_named(self, folder: Path) -> None:
        shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
        index = {"weight_map": dict.fromkeys(["a"], "model-00001-of-00001.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        sentence = refusal(folder)
        assert "two sets of weights, model.safetensors and what" in sentence
        assert "model.safetensors.index.json" in sentence

    def test_a_shard_that_no_index_names_is_one_too(self, folder: Path) -> None:
        save_file({"a": torch.zeros(1)}, folder / "model-00003-of-00003.safetensors")
        assert "model-00003-of-00003.safetensors" in refusal(folder)

    def test_an_adapter_beside_the_weights_is_one_too(self, folder: Path) -> None:
        save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
        assert "adapter_model.safetensors: an adapter beside the weights" in refusal(folder)

    def test_a_tensor_in_two_shards_is_refused(self, folder: Path) -> None:
        shutil.move(folder / "model.safetensors", folder / "model-1.safetensors")
        save_file({DOWN: torch.zeros(64, 160)}, folder / "model-2.safetensors")
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert f"{DOWN} stands in model-1.safetensors and in model-2" in refusal(folder)


class TestNames:
    def test_without_the_base_models_prefix_are_taken_as_transformers_takes_them(
        self, folder: Path
    ) -> None:
        change(folder, lambda w: {n.removeprefix("model."): t for n, t in w.items()})
        found = source_contract(folder)
        assert found.tensors[DOWN].name == DOWN.removeprefix("model.")
        assert found.tensors.keys() == found.model.shapes.keys()

    @pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod."])
    def test_with_a_wrappers_prefix_are_refused_by_it(self, folder: Path, prefix: str) -> None:
        change(folder, lambda w: {f"{prefix}{n}": t for n, t in w.items()})
        assert f"every tensor's name begins with {prefix!r}" in refusal(folder)


class TestATiedHead:
    def test_that_was_trained_all_the_same_is_not_tied(self, folder: Path) -> None:
        configure(folder, tie_word_embeddings=True)
        assert is_untied(folder)

    def test_that_is_the_table_once_more_is_tied(self, folder: Path) -> None:
        configure(folder, tie_word_embeddings=True)
        change(folder, lambda w: w | {HEAD: w[EMBED].clone()})
        assert not is_untied(folder)

    def test_that_was_trained_all_the_same_is_built_and_read_as_its_own(
        self, folder: Path, tmp_path: Path
    ) -> None:
        """transformers does not tie what differs; the graph, and the parent, must not either."""
        configure(folder, tie_word_embeddings=True)
        model, ids = load_model(folder, "float32"), [5, 7, 11, 13]
        assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
        file = tmp_path / "model.onnx"
        options = Int4Options(quantize=False)
        write_int4(build_graph(folder, "f32"), model_weights(folder), file, options)
        ours = torch.from_numpy(OnnxDecoder(file).feed(ids))
        theirs = model(torch.tensor([ids])).logits[0]
        assert torch.cosine_similarity(ours, theirs, dim=-1).min() > 0.999999


def test_a_head_that_was_trained_though_config_says_tied_comes_to_a_package(
    root: Path, tiny: Callable[[str], Path]
) -> None:
    folder = root / "models" / "legal" / "merged"
    shutil.copytree(tiny("qwen2-untied"), folder)
    configure(folder, tie_word_embeddings=True)
    made = run_chain(load_domain("legal"), Options(rung="smollm3", until="package"))
    assert made.attempts[0].outcome == "taken", made.attempts[0].reason
    assert json.loads((made.package / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("stated", "others", "loaded"),
    [("float32", torch.float32, torch.bfloat16), ("bfloat16", torch.float16, torch.bfloat16)],
)
def test_weights_are_loaded_as_they_lie_there_whatever_config_says(
    folder: Path, stated: str, others: torch.dtype, loaded: torch.dtype
) -> None:
    """A QLoRA merge has its norms in float32, and names the type of its first tensor."""
    configure(folder, dtype=stated)
    change(folder, lambda w: {n: t.to(others) if "norm" in n else t for n, t in w.items()})
    assert {p.dtype for p in load_model(folder).parameters()} == {loaded}
    change(folder, lambda w: {n: t.to(torch.float32) for n, t in w.items()})
    assert load_model(folder).dtype == torch.float32


def test_an_adapter_config_left_beside_merged_weights_changes_nothing(folder: Path) -> None:
    """transformers, with peft installed, would look for the adapter that it describes."""
    before = load_model(folder, "float32")(torch.tensor([[5, 7]])).logits
    named = {"peft_type": "LORA", "base_model_name_or_path": "acme/elsewhere"}
    (folder / "adapter_config.json").write_text(json.dumps(named))
    assert torch.equal(load_model(folder, "float32")(torch.tensor([[5, 7]])).logits, before)


def test_a_mixture_of_experts_has_the_tensors_that_save_pretrained_writes(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    assert any("experts.1.w2" in name for name in source_contract(tmp_path).tensors)
    assert load_model(tmp_path, "float32")(torch.tensor([[5, 7]])).logits.isfinite().all()
    change(tmp_path, lambda w: {n: t for n, t in w.items() if "experts.1.w2" not in n})
    assert "experts.1.w2.weight: missing" in refusal(tmp_path)


class TestQuantisation:
    def test_noted_over_16_bit_tensors_is_a_left_over(self, folder: Path) -> None:
        configure(folder, quantization_config={"quant_method": "bitsandbytes"})
        assert "quantization_config: left over from a quantised base" in refusal(folder)

    def test_noted_over_packed_tensors_asks_for_the_16_bit_weights(self, folder: Path) -> None:
        configure(folder, quantization_config={"quant_method": "gptq"})
        change(folder, lambda w: w | {DOWN: torch.zeros(8, 8, dtype=torch.int32)})
        assert "quantised already" in refusal(folder) and "16-bit weights are" in refusal(folder)

    def test_without_a_note_names_the_type(self, folder: Path) -> None:
        change(folder, lambda w: w | {DOWN: torch.zeros(64, 160, dtype=torch.float8_e4m3fn)})
        assert f"{DOWN}: weights of type F8_E4M3" in refusal(folder)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "no_such_thing"}, "no_such_thing"),
        ({"model_type": "fnet"}, "model_type: 'fnet' is no causal language model"),
        ({"hidden_act": "no_such_function"}, "no_such_function"),
        ({"num_attention_heads": 0}, "config.json: num_attention_heads: 0; a size of at least 1"),
        ({"num_hidden_layers": 7}, "num_hidden_layers"),
    ],
)
def test_a_config_that_describes_no_model_is_refused(
    folder: Path, keys: dict[str, object], words: str
) -> None:
    configure(folder, **keys)
    assert words in refusal(folder)


def test_two_names_of_one_weight_are_refused(folder: Path) -> None:
    change(folder, lambda w: w | {EMBED.removeprefix("model."): w[EMBED] + 1})
    assert "embed_tokens.weight are one weight of the model" in refusal(folder)


def test_a_tied_head_that_is_stored_all_the_same_is_one_weight(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    assert source_contract(folder).copies() == set(), "it was trained apart"
    change(folder, lambda w: w | {HEAD: w[EMBED].clone()})
    found = source_contract(folder)
    assert found.copies() == {HEAD}
    weights = model_weights(folder)
    assert weights[HEAD].data_ptr() == weights[EMBED].data_ptr()


def test_a_norm_that_is_no_number_is_named_before_anything_is_written(
    folder: Path, tmp_path: Path
) -> None:
    name = "model.layers.1.input_layernorm.weight"
    change(folder, lambda w: w | {name: w[name] * torch.nan})
    graph = build_graph(folder, "f16")
    with pytest.raises(RungFailed, match=f"{name}: holds values that are no finite numbers"):
        write_int4(graph, model_weights(folder), tmp_path / "model.onnx", Int4Options())
