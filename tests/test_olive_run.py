"""A domain's workflow run by plain Olive in a process of its own, and our passes in anybody's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from olive.passes.olive_pass import create_pass_from_dict

from shared.base import paths
from shared.base.errors import RungFailed, UserError
from shared.base.hashing import sha256_file
from shared.domain.domain import load_domain
from shared.domain.olive_json import OWN_PASSES, PASSES_FILE, check_olive_config, passes_text
from shared.olive.attach_pass import AttachAdapter
from shared.olive.build import DTYPES, build_stage
from shared.olive.calibrated_pass import CalibratedQuant
from shared.olive.calibration_text import TOKENS, calibration_stage, token_ids
from shared.source.source import source_stage
from shared.source.tokenizer import Tokenizer
from tests.adapters import FIRST, write_adapter

Tiny = Callable[[str], Path]
LEGAL = "domains/legal/olive.json"
CHAT = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "What floats?"},
    {"role": "assistant", "content": "Cork."},
]


def olive_run(root: Path, model: Path, config: str = LEGAL) -> subprocess.CompletedProcess[str]:
    """`olive run` in the folder `root`, as docs/olive.md has it, with the model's folder given."""
    words = ("run", "--config", config, "--package-config", str(PASSES_FILE), "-m", str(model))
    return subprocess.run(
        [sys.executable, "-m", "olive", *words],
        cwd=root,
        env=os.environ | {"DOCINTEL_ROOT": str(root), "PYTHONPATH": str(paths.REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def need_same_data(root: Path, build: Path) -> None:
    """The external data of Olive's q4f16 graph are those of the build, byte for byte."""
    (data,) = (root / "olive-output").rglob("model_q4f16.onnx_data")
    assert sha256_file(data) == sha256_file(build / data.name)


@pytest.fixture
def merged(root: Path, few: Tiny) -> Path:
    folder = root / "models" / "legal" / "merged"
    shutil.copytree(few("qwen2"), folder)
    return folder


def test_olive_accepts_our_workflow_by_itself(root: Path) -> None:
    from olive.workflows.run.config import RunConfig

    config = RunConfig.parse_file_or_obj(root / "domains" / "legal" / "olive.json")
    passes = [p.type.lower() for ps in config.passes.values() for p in ps]
    assert passes == ["calibratedquant", "streamingmodelbuilder"]


def test_the_list_of_passes_is_that_of_the_installed_olive_and_ours() -> None:
    assert PASSES_FILE.read_text("utf-8") == passes_text(), "python -m shared.domain.olive_json"
    assert json.loads(passes_text())["passes"].keys() >= {*OWN_PASSES, "Gptq", "ModelBuilder"}


def test_plain_olive_gives_the_bytes_of_a_build(root: Path, merged: Path) -> None:
    domain = load_domain("legal")
    rung = domain.rung("smollm3")
    done = olive_run(root, merged)
    assert done.returncode == 0, done.stderr[-2000:]
    need_same_data(root, build_stage(domain, rung, source_stage(rung)).folder)


def test_a_mistake_in_the_texts_ends_plain_olive_with_an_error(root: Path, merged: Path) -> None:
    """With the workflow of docs/olive.md."""
    text = (paths.REPOSITORY / "docs" / "olive.md").read_text("utf-8")
    shown = text.split("```json\n")[1].split("```")[0]
    check_olive_config(json.loads(shown), root / "mine.json")
    (root / "mine.json").write_text(shown)
    (root / "texts.jsonl").write_text(json.dumps({"text": "Cork floats."}))
    done = olive_run(root, merged, "mine.json")
    assert done.returncode == 1
    assert "texts.jsonl:1: text: unknown key" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["calibration.jsonl", "prompt.md", "../general.jsonl"])
def test_a_changed_text_is_no_hit_in_olives_cache(root: Path, name: str) -> None:
    """Olive keeps a pass's result under its options."""
    folder = root / "domains" / "legal"

    def options() -> dict[str, Any]:
        texts = {"calibration": str(folder / "calibration.jsonl")}
        made = create_pass_from_dict(CalibratedQuant, texts, disable_search=True)
        found: dict[str, Any] = made.config.to_json()
        return found

    before = options()
    assert before == options() and before["texts"]
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert options() != before


class TestAnAdapter:
    def test_is_put_beside_a_build_by_plain_olive(self, root: Path, merged: Path) -> None:
        """With the workflow of docs/olive.md."""
        text = (paths.REPOSITORY / "docs" / "olive.md").read_text("utf-8")
        shown = json.loads(text.split("```json\n")[2].split("```")[0])
        workflow = {"input_model": {"type": "HfModel", "model_path": "m"}} | shown
        (root / "mine.json").write_text(json.dumps(workflow))
        write_adapter(root / "my-adapter", merged)
        done = olive_run(root, merged, "mine.json")
        assert done.returncode == 0, done.stderr[-2000:]
        named = {path.name for path in (root / "olive-output").rglob("*.onnx*")}
        assert {f"model_{dtype}.onnx_data{end}" for dtype in DTYPES for end in ("", "_1")} < named

    def test_that_changed_is_no_hit_in_olives_cache(self, root: Path, merged: Path) -> None:
        folder = write_adapter(root / "my-adapter", merged)

        def options() -> dict[str, Any]:
            made = create_pass_from_dict(AttachAdapter, {"adapters": [str(folder)]}, True)
            found: dict[str, Any] = made.config.to_json()
            return found

        before = options()
        assert before == options() and before["files"]
        write_adapter(folder, merged, lambda _, tensors: tensors[f"{FIRST}.lora_A.weight"].neg_())
        assert options() != before

    def test_of_a_domain_is_its_rungs(self, root: Path) -> None:
        path = root / "domains" / "legal" / "olive.json"
        workflow = json.loads(path.read_text())
        workflow["passes"]["mine"] = {"type": "AttachAdapter", "adapters": ["my-adapter"]}
        with pytest.raises(UserError, match=r"passes\.mine\.type: AttachAdapter puts adapters"):
            check_olive_config(workflow, path)


class TestCalibrationTexts:
    """What CalibratedQuant takes outside of a release."""

    def test_of_a_domain_are_read_as_its_build_reads_them(self, root: Path, merged: Path) -> None:
        domain = load_domain("legal")
        made = calibration_stage(domain, source_stage(domain.rung("smollm3")))
        found = token_ids(str(domain.folder / "calibration.jsonl"), merged)
        assert found == json.loads((made.folder / TOKENS).read_text())

    def test_of_ones_own_are_chats_in_the_models_template(self, root: Path, few: Tiny) -> None:
        (root / "chats.jsonl").write_text(
            "\n".join(json.dumps({"messages": turns}) for turns in (CHAT, CHAT[1:]))
        )
        first, second = token_ids(str(root / "chats.jsonl"), few("qwen2"))
        tokenizer = Tokenizer(few("qwen2"))
        assert first == tokenizer.answered_ids("Answer in one word.", "What floats?", "Cork.")
        assert second == tokenizer.answered_ids("", "What floats?", "Cork.")

    @pytest.mark.parametrize(
        ("name", "text", "sentence"),
        [
            ("a.jsonl", '{"messages": [', "a.jsonl:1: not valid JSON"),
            ("a.jsonl", json.dumps({"messages": CHAT[:2]}), "a.jsonl: chat 1: messages: must be"),
            ("a.jsonl", "\n", "a.jsonl: holds no chats"),
            ("a.json", '{"messages": []}', "a.json: must hold lists of token ids, or be JSONL"),
            ("a.json", '[["Cork"]]', "a.json: must hold lists of token ids, or be JSONL"),
        ],
    )
    def test_that_are_neither_are_refused_with_file_and_line(
        self, root: Path, few: Tiny, name: str, text: str, sentence: str
    ) -> None:
        (root / name).write_text(text)
        with pytest.raises(Exception, match=sentence):
            token_ids(str(root / name), few("qwen2"))

    def test_are_looked_for_beside_the_workflow(
        self, root: Path, few: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "chats.jsonl").write_text(json.dumps({"messages": CHAT}))
        monkeypatch.setattr(sys, "argv", ["olive", "run", "--config", str(root / "mine.json")])
        assert len(token_ids("chats.jsonl", few("qwen2"))) == 1
        with pytest.raises(RungFailed, match=r"calibration: no file other\.jsonl; give its whole"):
            token_ids("other.jsonl", few("qwen2"))
