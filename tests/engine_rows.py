"""Engines as a run on a small machine might leave them, for the tests of tables and report."""

from __future__ import annotations

from shared.base.manifest import Measurement
from shared.webgpu_bench.engines.job import EngineRun
from shared.webgpu_bench.engines.side_by_side import Row
from shared.webgpu_bench.report.quality import Quality, Recipe
from shared.webgpu_bench.result import Run


def timed(name: str, tokens: int, ttft: float, step: float, new: int = 4) -> Run:
    """One run: prefill of `tokens` in `ttft` ms, then `new` - 1 steps of `step` ms."""
    return Run(
        id=name,
        prompt_tokens=tokens,
        output_ids=[7, 8, 9, 10][:new],
        ttft_ms=ttft,
        decode_ms=[step] * (new - 1),
        stopped_by="max_new_tokens",
    )


def native() -> EngineRun:
    runs = [timed("run-0", 24, 200, 10), timed("d0/warm-0", 1, 90, 90)]
    runs += [timed(f"d0/{i}", 1, 9, 10 + i) for i in range(3)]
    runs += [timed(f"d512/{i}", 512, 2000, 16 + i) for i in range(3)]
    return EngineRun(
        runtime="onnxruntime-genai 1",
        where="a CPU",
        dtype="q4",
        threads=2,
        load_seconds=0.3,
        peak_rss_bytes=820_000_000,
        runs=runs,
    )


def software() -> EngineRun:
    return EngineRun(
        runtime="onnxruntime-web 1",
        where="SwiftShader",
        dtype="q4",
        software_adapter=True,
        load_seconds=2.5,
        warm_load_seconds=0.6,
        peak_gpu_bytes=117_000_000,
        browser="Chromium 1",
        flags=["--use-webgpu-adapter=swiftshader"],
        runs=[timed("run-0", 24, 20_000, 9000), timed("d0/0", 1, 5000, 7000)],
    )


def rows() -> list[Row]:
    """Two domains; one engine could not be measured, for a reason with markup in it."""
    reason = "no <shader-f16> here"
    found = []
    for domain in ("legal", "medical"):
        head = {"domain": domain, "rung": "embedded"}
        found.append(Row(**head, engine="webgpu-q4", run=software()))
        found.append(Row(**head, engine="webgpu-q4f16", reason=reason))
        found.append(Row(**head, engine="native", run=native(), same_ids="4 of 4"))
    return found


def quality() -> list[Quality]:
    """One domain with scores, gates and two recipes; another without a release."""
    ends = {"base": (0.2, 0.15, 0.26), "parent": (0.55, 0.47, 0.62), "release": (0.52, 0.44, 0.6)}
    check = {
        f"{system}.constrained.field_score": Measurement(
            value=value, low=low, high=high, n=120, unit="share"
        )
        for system, (value, low, high) in ends.items()
    }
    check["release.constrained.json_validity"] = Measurement(value=1.0, n=120, unit="share")
    check["floor.field_score"] = Measurement(value=0.31, n=120, unit="share")
    gates = {
        "schema compliance": ("pass", "1 is at least 0.99"),
        "decode": ("not measured", "no <GPU> here"),
        "field score": ("fail", "0.52 is below 0.6"),
    }
    tried = [Recipe("int4-rtn", 9e7, 0.11, 0.01), Recipe("gptq-32", 1.1e8, 0.04, 0.06, chosen=True)]
    return [
        Quality("legal", check, gates, {"embedded": tried}),
        Quality("medical", missing="no <release> here"),
    ]
