"""A rung's weights are a fine-tune of the rung's base, by their dimensions and by their own word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.full_size import ARCHITECTURES
from shared.base.errors import RungFailed
from shared.domain.domain import load_domain
from shared.domain.settings import Rung
from shared.source.base_model import contradicts, known_bases, refuse_other_base

SMALL = {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
QWEN = {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16}


@pytest.fixture
def rung(root: Path) -> Rung:
    rung = load_domain("legal").rung("qwen2.5-3b")
    return rung.model_copy(update={"model_type": "qwen2"})


def refusal(folder: Path, config: dict[str, Any], rung: Rung) -> str:
    with pytest.raises(RungFailed) as caught:
        refuse_other_base(folder, config, rung)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def card(folder: Path, *lines: str) -> Path:
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", "# A model"]) + "\n")
    return folder


def test_a_half_billion_is_no_three_billion(tmp_path: Path, rung: Rung) -> None:
    sentence = refusal(tmp_path, SMALL, rung)
    assert "hidden_size: 896 is not Qwen/Qwen2.5-3B-Instruct's 2048" in sentence


@pytest.mark.parametrize(
    "line",
    ["base_model: Qwen/Qwen2.5-0.5B-Instruct", "base_model: [acme/x, Qwen/Qwen2.5-0.5B-Instruct]"],
)
def test_a_card_that_names_another_base_is_refused_with_both_names(
    tmp_path: Path, rung: Rung, line: str
) -> None:
    sentence = refusal(card(tmp_path, line, "license: other"), QWEN, rung)
    assert "README.md: base_model: says Qwen/Qwen2.5-0.5B-Instruct" in sentence
    assert "Qwen/Qwen2.5-3B-Instruct" in sentence


def test_config_json_is_believed_no_more_than_the_card(tmp_path: Path, rung: Rung) -> None:
    config = QWEN | {"_name_or_path": "Qwen/Qwen2.5-7B"}
    assert "config.json: _name_or_path: says Qwen/Qwen2.5-7B" in refusal(tmp_path, config, rung)


def test_a_left_over_adapter_config_names_a_base_too(tmp_path: Path, rung: Rung) -> None:
    named = {"base_model_name_or_path": "HuggingFaceTB/SmolLM3-3B"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(named))
    assert "adapter_config.json: base_model_name_or_path: says" in refusal(tmp_path, QWEN, rung)


def test_another_licence_than_the_rungs_is_refused_with_both(tmp_path: Path, rung: Rung) -> None:
    sentence = refusal(card(tmp_path, "license: apache-2.0"), QWEN, rung)
    assert "license: apache-2.0" in sentence and "other (qwen-research)" in sentence


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("base_model: Qwen/Qwen2.5-3B", "license: other"),
        ("base_model: unsloth/qwen2.5-3b-instruct-bnb-4bit",),
        ("base_model: /home/ann/checkpoints/7b-run",),
        ("base_model: acme/legal-model-v1",),
        ("license: license",),
    ],
)
def test_what_does_not_contradict_is_taken(
    tmp_path: Path, rung: Rung, lines: tuple[str, ...]
) -> None:
    refuse_other_base(card(tmp_path, *lines), QWEN | {"_name_or_path": "/tmp/run-7b"}, rung)


def test_a_licence_that_is_called_other_and_has_no_name_says_nothing(
    tmp_path: Path, root: Path
) -> None:
    """LLaMA-Factory writes it beside whatever it trained."""
    rung = load_domain("legal").rung("smollm3")
    refuse_other_base(card(tmp_path, "license: other"), {}, rung.model_copy(update={"base": "a/b"}))
    named = card(tmp_path, "license: other", "license_name: acme-research")
    with pytest.raises(RungFailed, match="license: other"):
        refuse_other_base(named, {}, rung.model_copy(update={"base": "a/b"}))


def test_a_licence_that_unsloth_writes_of_every_model_is_none(tmp_path: Path, rung: Rung) -> None:
    mine = rung.model_copy(update={"base": "a/b", "licence": "mit"})
    refuse_other_base(card(tmp_path, "license: apache-2.0", "tags: [unsloth, trl]"), {}, mine)
    with pytest.raises(RungFailed, match=r"license: apache-2\.0"):
        refuse_other_base(card(tmp_path, "license: apache-2.0", "tags: [trl]"), {}, mine)


def test_a_base_of_somebodys_own_has_no_known_dimensions(tmp_path: Path, rung: Rung) -> None:
    refuse_other_base(tmp_path, SMALL, rung.model_copy(update={"base": "acme/own"}))


@pytest.mark.parametrize(
    ("claim", "base", "does"),
    [
        ("Qwen/Qwen2.5-Coder-3B", "Qwen/Qwen2.5-3B-Instruct", True),
        ("HuggingFaceTB/SmolLM3-3B-Base", "HuggingFaceTB/SmolLM3-3B", False),
        ("HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM3-3B", True),
        ("microsoft/Phi-3-mini-4k-instruct", "HuggingFaceTB/SmolLM3-3B", True),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", False),
        ("acme/llama-3b-legal", "HuggingFaceTB/SmolLM3-3B", False),
    ],
)
def test_names_contradict_by_size_and_by_family(claim: str, base: str, does: bool) -> None:
    assert contradicts(claim, base) is does


def test_the_known_dimensions_are_those_of_the_full_size_architectures() -> None:
    ours = {tuple(found.model_dump().values()) for found in known_bases().values()}
    for architecture in ARCHITECTURES.values():
        shape = architecture[1]
        keys = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        assert tuple(shape[key] for key in keys) in ours
