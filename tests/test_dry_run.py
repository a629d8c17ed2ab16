"""`--dry-run` and the doctor: what they name, what they refuse, and that they write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.base import paths
from shared.cli.summary import inputs_report
from shared.pipeline.dry_run import dry_run, foretold
from shared.pipeline.stages import Options
from tests.stand_ins import as_shipped, share_embedded
from tests.test_estimate import MEASURED_ON

Tiny = Callable[[str], Path]


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second is spent on measuring."""
    monkeypatch.setattr("shared.pipeline.forecast.measured_machine", lambda: MEASURED_ON)


def state(root: Path) -> dict[str, int]:
    """All that lies in a root, but what is remembered of machine and tools."""
    kept = ("machine-", "olive-schema")
    found = (p for p in root.rglob("*") if not p.name.startswith(kept))
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in found if p != root / "build"}


def test_a_dry_run_names_the_rungs_with_and_without_weights_and_writes_nothing(
    root: Path, few: Tiny
) -> None:
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "qwen2.5-3b")
    before = state(root)
    text = dry_run("legal", Options())
    assert state(root) == before
    assert "  smollm3: no weights: models/legal/merged: the folder is not there" in text
    qwen = text.partition("  qwen2.5-3b: ")[2].partition("  smollm2:")[0].splitlines()
    assert qwen[0] == "models/legal/qwen2.5-3b"
    assert [line.split()[0] for line in qwen[1:-1]] == [
        *("source", "build", "package", "fidelity", "check", "bench")
    ]
    assert "hf:HuggingFaceTB/SmolLM3-3B@main is fetched first" in text
    assert "  embedded: an example, not tried in place of qwen2.5-3b, which was brought" in text
    assert text.rpartition("      in all    about ")[2].partition(",")[0].endswith(("min", "s"))


def test_weights_that_are_no_model_are_named_with_the_reason(root: Path, few: Tiny) -> None:
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    (root / "models" / "legal" / "merged" / "model.safetensors").unlink()
    text = dry_run("legal", Options(rung="smollm3"))
    assert "smollm3: fails at source: models/legal/merged: needs model.safetensors" in text


@pytest.mark.parametrize(
    "odd",
    [{"intermediate_size": None}, {"num_hidden_layers": 0}, {"num_attention_heads": 0}],
    ids=str,
)
def test_sizes_that_are_none_are_not_estimated_and_end_no_dry_run(
    root: Path, few: Tiny, odd: dict[str, Any]
) -> None:
    shutil.copytree(few("smollm3"), root / "models" / "legal" / "merged")
    config = root / "models" / "legal" / "merged" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | odd))
    assert "smollm3" in foretold("legal", Options(rung="smollm3"))[0]


def test_a_dry_run_and_the_doctor_refuse_what_a_release_would_refuse(
    root: Path, few: Tiny, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = paths.REPOSITORY / "domains" / "legal" / "fallback.toml"
    here = shipped.read_text().replace(
        '"hf:HuggingFaceTB/SmolLM3-3B@main"', '"models/{domain}/base"'
    )
    (root / "domains" / "legal" / "fallback.toml").write_text(here)
    shutil.copytree(few("smollm3"), root / "models" / "legal" / "merged")
    (root / "models" / "legal" / "merged" / "model.safetensors").unlink()
    text, may_be = foretold("legal", Options())
    assert not may_be
    assert "example: an example, not tried in place of smollm3, which was brought" in text
    assert not foretold("legal", Options(rung="smollm3"))[1]
    assert foretold("legal", Options(rung="embedded"))[1]
    table, well = inputs_report("legal")
    assert not well and "not taken" in table
    shutil.rmtree(root / "models" / "legal" / "merged")
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    as_shipped(root)
    (root / "domains" / "legal" / "fallback.toml").write_text(here)
    share_embedded(root)
    monkeypatch.setattr("shared.cli.summary.mistakes", lambda domain: [])
    assert not inputs_report("legal")[1], "another model's weights were brought as well"
    shutil.rmtree(root / "models" / "legal" / "merged")
    shutil.copytree(embedded, root / "models" / "legal" / "merged")
    assert inputs_report("legal")[1], "examples/finetune's are the example's own"
