"""What a person got wrong is said before stage 1, all of it at once, and nothing is built."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from shared.base import paths
from shared.base.errors import UserError
from shared.cli.program import Program
from shared.domain.domain import load_domain
from shared.pipeline import inputs
from shared.pipeline import stages as rung_module
from shared.pipeline.inputs import measurable, mistakes, need_inputs
from shared.pipeline.one_domain import release_domain
from shared.pipeline.stages import Options

Edit = Callable[[str, str, str], None]
TYPO = '\n[[gate]]\nname = "mine"\nmeasurement = "check.release.fre.json_validity"\nat_least = 1\n'


def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found() -> None:
        raise UserError("no Chrome or Chromium found; run: ./inv doctor")

    monkeypatch.setattr(inputs, "require_browser", none_found)


def look_ahead(schema: Path) -> None:
    value: dict[str, Any] = json.loads(schema.read_text())
    first = next(iter(value["properties"]))
    value["properties"][first] = {"type": "string", "pattern": "^(?=a)b$"}
    schema.write_text(json.dumps(value))


def test_a_good_domain_has_no_mistake(root: Path) -> None:
    assert mistakes("legal") == []
    need_inputs("legal")


def test_four_mistakes_are_four_sentences_and_nothing_is_built(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "domains" / "legal"
    (folder / "prompt.md").write_text(" \n")
    look_ahead(folder / "schema.json")
    toml = folder / "fallback.toml"
    toml.write_text(toml.read_text() + TYPO)
    no_browser(monkeypatch)
    result = release_domain("legal", Options())
    lines = str(result.error).splitlines()
    assert not result.ok and result.chain is None
    assert lines[0] == "legal: 4 mistakes; nothing was built" and len(lines) == 5
    assert any("prompt.md: holds no prompt" in line for line in lines)
    assert any("schema.json" in line and "pattern" in line for line in lines)
    gate = next(line for line in lines if "check.release.fre.json_validity" in line)
    assert "domains/legal/fallback.toml:" in gate and "did you mean" in gate
    assert any("no Chrome or Chromium found" in line for line in lines)
    assert not list(root.glob("build/*/*")) and not list(root.glob("models/*/webgpu"))


def test_another_domains_model_asks_nothing_of_this_ones_machine(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs.psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9))
    for name, found in (("big", 0), ("legal", 1)):
        folder = root / "models" / name / "merged"
        folder.mkdir(parents=True)
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(15_000_000_000)  # no byte of it is written
        assert sum("of memory are free" in line for line in mistakes("legal")) == found


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ('"passes.int4.int4_blok_size" = 64', "int4_blok_size: unknown key; did you mean"),
        ('"passes.calibratd.bits" = 8', "no 'calibratd'; did you mean 'calibrated'"),
    ],
)
def test_a_rungs_own_settings_are_looked_at_before_anything_is_built(
    root: Path, passes: str, words: str
) -> None:
    toml = root / "domains" / "legal" / "fallback.toml"
    text = toml.read_text()
    assert text.count('"passes.calibrated.group_size" = 128') == 1
    toml.write_text(text.replace('"passes.calibrated.group_size" = 128', passes))
    (found,) = mistakes("legal")
    assert found.startswith("domains/legal/fallback.toml: rung phi3-mini") and words in found


def test_one_mistake_is_one_sentence(root: Path) -> None:
    (root / "domains" / "legal" / "prompt.md").write_text("")
    with pytest.raises(UserError, match=r"^domains/legal/prompt\.md: holds no prompt$"):
        need_inputs("legal")


def test_every_gate_of_every_domain_names_what_some_stage_can_measure() -> None:
    for name in ("contracts", "financial", "legal", "medical"):
        chain = load_domain(name).chain
        assert {gate.measurement for gate in chain.gate} <= set(measurable(chain))


def test_a_folder_that_may_not_be_written_to_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(inputs.tempfile, "TemporaryFile", refused)
    assert "models: cannot be written to: Permission denied" in mistakes("legal")


def test_a_disk_too_full_for_a_build_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(inputs.shutil, "disk_usage", lambda folder: usage)
    assert any("models: 0.0 MB are free, a build may take" in line for line in mistakes("legal"))


def test_too_little_memory_for_a_build_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = inputs.psutil.virtual_memory()._replace(available=500_000_000)
    monkeypatch.setattr(inputs.psutil, "virtual_memory", lambda: memory)
    assert "0.500 GB of memory are free, a build may take 1.000 GB" in mistakes("legal")


def test_a_calibration_record_that_is_measured_too_is_named(root: Path) -> None:
    folder = root / "domains" / "legal"
    shutil.copy(folder / "eval.jsonl", folder / "calibration.jsonl")
    assert any("calibration.jsonl" in line and "held-out" in line for line in mistakes("legal"))


def test_a_defect_of_ours_on_one_rung_does_not_end_the_chain(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(rung: Any, **_: Any) -> None:
        raise KeyError("a folder that nobody thought of")

    monkeypatch.setattr(rung_module, "source_stage", stumbles)
    result = release_domain("legal", Options())
    assert result.chain is not None
    assert len(result.chain.attempts) == len(load_domain("legal").chain.rung)
    first = result.chain.attempts[0]
    assert first.outcome == "failed" and first.reason.startswith("a defect of ours: KeyError")
    assert "stumbles" in (root / "build" / "failures" / "legal.txt").read_text()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), MemoryError()],
    ids=["disk", "memory"],
)
def test_what_this_machine_lacks_is_no_rungs_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def lacks(rung: Any, **_: Any) -> None:
        raise error

    monkeypatch.setattr(rung_module, "source_stage", lacks)
    with pytest.raises(type(error)):
        release_domain("legal", Options())
    assert not (root / "build" / "failures").exists()


def test_what_is_built_or_not_asked_for_needs_no_room_for_a_build(
    root: Path, few: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared.source.source import weights_hash

    merged = root / "models" / "legal" / "merged"
    shutil.copytree(few("qwen2"), merged)
    size = (merged / "model.safetensors").stat().st_size
    usage = shutil.disk_usage(root)._replace(free=inputs.LEAST_DISK + size // 2)
    monkeypatch.setattr(inputs.shutil, "disk_usage", lambda folder: usage)

    def said(**asked: Any) -> bool:
        return any("are free, a build may take" in line for line in mistakes("legal", **asked))

    assert said() and said(rung="smollm3") and not said(rung="embedded")
    built = root / "build" / "build" / "0123"
    built.mkdir(parents=True)
    (built / "manifest.json").write_text(json.dumps({"inputs": {"weights": weights_hash(merged)}}))
    assert not said() and said(force=True)


def test_a_file_in_the_place_of_models_is_named_and_nothing_is_made_by_looking(root: Path) -> None:
    assert mistakes("legal") == [] and not (root / "models").exists()
    (root / "models").write_text("")
    assert any(line.startswith("models: cannot be written to: ") for line in mistakes("legal"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/alice/.cache/x: gone", "~/.cache/x: gone"),
        ("No such file: '/home/alice'", "No such file: '~'"),
        ("/home/alice2/x and /srv/home/alice/x", "/home/alice2/x and /srv/home/alice/x"),
    ],
)
def test_nobodys_home_folder_is_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    assert paths.without_home(text) == said
    assert paths.shown(Path("/home/alice/x")) == "~/x"


def test_preflight_is_of_one_thing(root: Path) -> None:
    with pytest.raises(SystemExit) as end:
        Program(tasks.namespace).run(["invoke", "preflight", "--domain", "legal", "--folder", "x"])
    assert end.value.code == 1
