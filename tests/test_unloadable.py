"""A package that builds yet cannot load is a measurement and a failed gate, never a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base.errors import RungFailed
from shared.base.manifest import Manifest, Measurement
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import load_domain
from shared.evaluate.check import Selection, check_stage
from shared.evaluate.models.onnx import OnnxDecoder
from shared.release.gates import failed, judge_gates
from shared.setup.browser import find_browser
from shared.source.source import source_stage
from shared.webgpu_bench.stage import NAMES, bench_stage


@pytest.fixture
def spoilt(root: Path, package: Path) -> StageResult:
    """The packaged model as a finished stage, its graph replaced by something that is none."""

    def produce(work: Path) -> Produced:
        shutil.copytree(package, work, dirs_exist_ok=True)
        (work / "manifest.json").unlink()
        for graph in work.glob("onnx/*.onnx"):
            graph.write_bytes(b"not a graph")
        sizes = {f"{d}_bytes": Measurement(value=1, unit="B") for d in ("q4f16", "q4")}
        return Produced(sizes)

    return run_stage(Plan("package", {"spoilt": "yes"}), produce)


def manifests_with(spoilt: StageResult, **others: Manifest) -> dict[str, Manifest]:
    return {"package": spoilt.manifest, **others}


def unmeasured_bench(spoilt: StageResult) -> Manifest:
    missing = {name: Measurement.missing("not run") for name in NAMES}
    return spoilt.manifest.model_copy(update={"measurements": missing})


def test_onnxruntime_genai_that_cannot_load_it_fails_the_gate(
    spoilt: StageResult, root: Path, tiny: Callable[[str], Path]
) -> None:
    shutil.copytree(tiny("qwen2"), root / "models" / "legal" / "merged")
    domain = load_domain("legal")
    rung = domain.rung("smollm3")
    selection = Selection(domain.records[:1], "our own")
    check = check_stage(domain, rung, source_stage(rung), spoilt, selection).manifest
    assert check.measurements["loads"].value is False
    made = manifests_with(spoilt, check=check, bench=unmeasured_bench(spoilt))
    asked = [gate for gate in domain.chain.gate if gate.measurement.split(".")[0] in made]
    gates = judge_gates(asked, made)
    (fatal,) = failed(gates, "release")
    assert fatal.name == "loads in onnxruntime-genai"
    assert "onnxruntime-genai cannot load it" in fatal.reason


def test_onnxruntime_that_cannot_load_it_says_so(spoilt: StageResult) -> None:
    with pytest.raises(RungFailed, match=r"onnxruntime cannot load model_q4\.onnx: "):
        OnnxDecoder(spoilt.folder / "onnx" / "model_q4.onnx")


@pytest.mark.slow
def test_a_browser_that_cannot_load_it_fails_the_gate(spoilt: StageResult) -> None:
    assert find_browser(), "no browser: run `./inv doctor`"
    domain = load_domain("legal")
    bench = bench_stage(domain, spoilt).manifest
    assert bench.measurements["loads"].value is False
    gate = next(g for g in domain.chain.gate if g.measurement == "bench.loads")
    (result,) = judge_gates([gate], {"bench": bench})
    assert result.outcome == "fail" and "the browser: load_failed" in result.reason
