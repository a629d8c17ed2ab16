"""docs/measured/'s benchmark: every domain on its own records and on a set from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import evaluated, findings
from shared.base.errors import UserError


@pytest.fixture
def sets(root: Path) -> Path:
    """A public set of one record, in a folder of the same name as the domain."""
    folder = root / "sets" / "legal"
    folder.mkdir(parents=True)
    line = (root / "domains" / "legal" / "eval.jsonl").read_text().splitlines()[3]
    (folder / "eval.jsonl").write_text(json.dumps(json.loads(line) | {"id": "p1"}) + "\n")
    return root / "sets"


@pytest.mark.slow
def test_it_writes_fidelity_and_both_sets_of_a_real_model(
    root: Path, sets: Path, few: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged")
    monkeypatch.setattr(evaluated, "_rungs", lambda domain: ["smollm3"])
    monkeypatch.setitem(evaluated.TITLES, "smollm3", "a tiny one")
    (page,) = evaluated.evaluate(sets, "1", root / "measured")
    text = page.read_text()
    assert "# legal: a tiny one" in text and "KL divergence from the 16-bit model" in text
    found = findings.read_page(page)
    assert found.cell(findings.FIDELITY, "same likeliest token", "value").endswith("%")
    assert "%" in found.cell(findings.HELD, "field score", "4-bit release")
    own, _, public = text.partition("## Public records")
    assert "1 records (our own held-out records)" in own and "Held to the schema:" in own
    assert "1 records (records of legal/eval.jsonl)" in public and "Free decoding:" in public


def test_a_rung_that_cannot_be_had_leaves_no_document(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluated, "_rungs", lambda domain: ["smollm3"])
    monkeypatch.setitem(evaluated.TITLES, "smollm3", "a missing one")
    with pytest.raises(UserError, match="no rung could be taken"):
        evaluated.evaluate(None, "1", root / "measured")
    assert not (root / "measured").exists()


def test_a_tuned_model_is_told_by_the_note_of_its_run(root: Path) -> None:
    note = root / "models" / "legal" / "adapter" / "finetune.json"
    assert evaluated._rungs("legal") == ["embedded"]
    note.parent.mkdir(parents=True)
    run = {"records": 1200, "steps": 3, "examples_seen": 30, "seconds": 90.0}
    losses = {"losses_nats_per_token": [0.7, 0.5, 0.3]}
    near = {"left_out_as_near_copies_of_held_out_records": ["a", "b"]}
    note.write_text(json.dumps(run | losses | near))
    assert evaluated._rungs("legal") == ["embedded", "smollm2"]
    example = root / "examples" / "adapters" / "legal" / "finetune.json"
    example.parent.mkdir(parents=True)
    example.write_text("{}")
    assert evaluated._rungs("legal") == ["embedded", "smollm2", "example"]
    told = evaluated._trained("legal", "smollm2")
    assert "1,200 records (2 more" in told and "3 steps over 30 examples in 1.5 minutes" in told
    assert "Loss: 0.7 nats" in told and "0.5 over the last ten" in told
