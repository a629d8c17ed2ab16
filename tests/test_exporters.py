"""Two exporters for one rung: both are built and measured, the better one is kept, both are listed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.domain.domain import load_domain
from shared.pipeline import choose
from shared.pipeline.chain import run_chain
from shared.pipeline.stages import Options

pytestmark = pytest.mark.slow
Edit = Callable[[str, str, str], None]

BOTH = 'why = "the fine-tuned model of choice"\nexporters = ["olive", "optimum"]'


def test_both_are_built_and_the_better_one_is_kept(
    root: Path, few: Callable[[str], Path], edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "ROUNDS", 2)
    monkeypatch.setattr(choose, "DECODED", 8)
    edit("fallback.toml", 'why = "the fine-tuned model of choice"', BOTH)
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged", copy_function=os.link)
    walked = run_chain(
        load_domain("legal"), Options(rung="smollm3", until="package", keep_onnx=True)
    )
    outcomes = {a.exporter: a.outcome for a in walked.attempts}
    assert sorted(outcomes.values()) == ["not kept", "taken"]
    for attempt in walked.attempts:
        for name in ("q4f16_bytes", "kl_divergence", "agreement", "cpu_decode_tokens_per_second"):
            assert attempt.measured[name].value is not None, (attempt.exporter, name)
        assert "the lowest KL divergence" in attempt.reason
        assert "the median of" in attempt.measured["cpu_decode_tokens_per_second"].how
    assert (root / "models" / "legal" / "onnx" / "model.onnx").exists()


def test_an_exporter_that_fails_is_an_attempt_with_a_reason_not_a_crash(
    root: Path, few: Callable[[str], Path], edit: Edit
) -> None:
    edit("fallback.toml", 'why = "the fine-tuned model of choice"', BOTH)
    edit("olive.json", '"precision": "int4",', '"precision": "int4", "use_qdq": true,')
    shutil.copytree(few("qwen2"), root / "models" / "legal" / "merged", copy_function=os.link)
    walked = run_chain(load_domain("legal"), Options(rung="smollm3", until="package"))
    outcomes = {a.exporter: (a.outcome, a.reason) for a in walked.attempts}
    assert outcomes["optimum"][0] == "taken"
    assert outcomes["olive"][0] == "failed" and "use_qdq" in outcomes["olive"][1]
