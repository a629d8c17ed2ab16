"""From the browser's answer to the bench stage's measurements."""

import statistics
from typing import Any

import numpy as np

from shared.base.manifest import Measurement
from shared.domain.settings import BenchSettings
from shared.setup.browser import Browser
from shared.webgpu_bench import documents, parity
from shared.webgpu_bench.result import BrowserResult, Run
from shared.webgpu_bench.speed import NO_SPEED, Figure, at, figures, speeds

MODELS_FAULT = ("load_failed", "run_failed", "out_of_budget")
"""Outcomes that say something of the model, and are measurements."""

NAMES = {
    "loads": "",
    "greedy_agreement": "share",
    "load_seconds": "s",
    "ttft_seconds": "s",
    "prefill_tokens_per_second": "tokens/s",
    "decode_tokens_per_second": "tokens/s",
    "peak_gpu_bytes": "B",
    "gpu_errors": "errors",
    "nodes_on_cpu": "nodes",
    "nodes_on_cpu_unexpected": "nodes",
    "placement_proven": "",
    "largest_context": "tokens",
    "layers_agree": "",
    **documents.NAMES,
    **parity.NAMES,
}

LATE = "the time budget ended before it was reached"
UNREACHED = "not reached: it is past the model's context, or the time budget ended"
NEAR_TIE = 0.1
"""Nats. Two tokens that the CPU holds for so nearly equally likely are a tie: WebGPU rounds activations
to int8 where the CPU's exact side does not, and either may come first (docs/browser.md)."""


def likeliest(logits: np.ndarray, wrote: int) -> int:
    """The token that the CPU's logits [vocab] find likeliest; `wrote` where it ties with that."""
    best = int(logits.argmax())
    return wrote if float(logits[best] - logits[wrote]) <= NEAR_TIE else best


def own_runs(result: BrowserResult) -> list[Run]:
    """The runs of the domain's own question; the others are llama-bench's points."""
    return [run for run in result.runs if "/" not in run.id]


def further(bench: BenchSettings) -> dict[str, str]:
    """What is measured beside NAMES, by these settings: name → unit."""
    points = {"prefill": {*bench.prefill, *bench.depths} - {0}, "decode": bench.depths}
    names = (f"{kind}_tokens_per_second_at_{n}" for kind, at_n in points.items() for n in at_n)
    return dict.fromkeys(names, "tokens/s") | {"warm_load_seconds": "s", "load_bytes": "B"}


def with_unreached(found: dict[str, Measurement], bench: BenchSettings) -> dict[str, Measurement]:
    """All that a gate may name: what was not reached is not measured, with the reason."""
    loads = found["loads"]
    why = NO_SPEED if loads.software_adapter else UNREACHED
    reason = why if loads.value else loads.reason or UNREACHED
    names = NAMES | further(bench)
    return {name: Measurement.missing(reason, unit) for name, unit in names.items()} | found


def not_loaded(result: BrowserResult) -> dict[str, Measurement]:
    """NAMES of a model that could not be loaded or run: only `loads` is known, with the outcome."""
    reason = f"the browser: {result.outcome}: {result.error}"
    missing = {name: Measurement.missing(reason, unit) for name, unit in NAMES.items()}
    loads = Measurement(
        value=False,
        reason=reason,
        where=describe(result),
        software_adapter=result.software_adapter,
    )
    return missing | {"loads": loads}


def _decode(result: BrowserResult) -> Figure | None:
    """From an empty cache; on a GPU that is too slow to come to that in its time, whatever it reached:
    slow is not unknown."""
    found = figures(result.runs)
    reached = [] if result.software_adapter else [f for f in found if f.test == "decode"]
    return at(found, "decode", 0) or next(iter(reached), None)


def _depth(decode: Figure | None) -> str:
    return f"{decode.tokens} in the cache" if decode and decode.tokens else "from an empty cache"


def gpu_errors(result: BrowserResult) -> Measurement:
    """How many the device told of, its own loss among them."""
    errors = len(result.uncaptured_errors) + (result.device_lost is not None)
    return Measurement(value=errors, unit="errors", how="uncaptured errors and device losses")


def measurements(result: BrowserResult, cpu: dict[str, list[int]]) -> dict[str, Measurement]:
    """What a run shows by itself; `cpu` holds the CPU's likeliest tokens, run id → ids."""
    runs = [run for run in own_runs(result) if run.id.startswith("run")]

    def measured(name: str, values: list[float], how: str, why: str = LATE) -> Measurement:
        if not values:
            return Measurement.missing(why, NAMES[name])
        mean = statistics.fmean(values)
        return Measurement(value=mean, unit=NAMES[name], how=how, n=len(values), samples=values)

    ttft = [run.ttft_ms / 1000 for run in runs if run.ttft_ms]
    prefill = [run.prompt_tokens / (run.ttft_ms / 1000) for run in runs if run.ttft_ms]
    decode = _decode(result)
    peak, on_cpu = result.gpu.peak_requested_bytes, _nodes_on_cpu(result)
    found = {
        "loads": Measurement(value=True, how="loaded and generated"),
        "greedy_agreement": _agreement(runs, cpu),
        "load_seconds": measured("load_seconds", [result.load.seconds], "cold, loopback"),
        "ttft_seconds": measured("ttft_seconds", ttft, "prompt in to first token out"),
        "prefill_tokens_per_second": measured("prefill_tokens_per_second", prefill, "prompt/TTFT"),
        "decode_tokens_per_second": measured(
            "decode_tokens_per_second",
            list(decode.samples) if decode else [],
            f"tokens after the first, {_depth(decode)}, by the page's own loop",
            NO_SPEED if result.software_adapter else LATE,
        ),
        **speeds(result),
        **documents.measurements(result),
        "peak_gpu_bytes": Measurement(
            value=peak, unit="B", how="requested WebGPU buffer bytes, peak"
        ),
        "gpu_errors": gpu_errors(result),
        "nodes_on_cpu": on_cpu,
        "placement_proven": Measurement(
            value=result.placement is not None,
            how="whether onnxruntime-web's log tells where each node ran",
            reason=None if result.placement else on_cpu.reason,
        ),
    }
    there = {"where": describe(result), "software_adapter": result.software_adapter}
    return {name: m.model_copy(update=there) for name, m in found.items()}


def _agreement(runs: list[Run], cpu: dict[str, list[int]]) -> Measurement:
    """Share of the tokens the browser wrote that the CPU finds likeliest after the same text."""
    pairs = [pair for run in runs for pair in zip(run.output_ids, cpu[run.id], strict=False)]
    if not pairs:
        return Measurement.missing("the browser produced no token in time", "share")
    return Measurement(
        value=statistics.fmean(ours == theirs for ours, theirs in pairs),
        unit="share",
        how="the browser's greedy tokens that onnxruntime's CPU also finds likeliest, or tied with "
        f"it ({NEAR_TIE} nats), same file",
        n=len(pairs),
    )


def _nodes_on_cpu(result: BrowserResult) -> Measurement:
    if result.placement is None:
        reason = result.placement_reason or "onnxruntime-web's placement log could not be read"
        return Measurement.missing(reason, "nodes")
    return Measurement(
        value=result.placement.CPUExecutionProvider,
        unit="nodes",
        how=f"onnxruntime-web's log; {result.placement.WebGpuExecutionProvider} on WebGPU",
    )


def describe(result: BrowserResult) -> str:
    """One line: the dtype, the adapter, and whether it is a software one."""
    label = " (software adapter)" if result.software_adapter else ""
    return f"{result.dtype} on {result.adapter.name}{label}"


def facts(result: BrowserResult, browser: Browser) -> dict[str, Any]:
    """What the manifest keeps beside the measurements: browser, adapter, flags, versions."""
    return {
        "browser": f"{browser.kind} {browser.version}",
        "user_agent": result.user_agent,
        "adapter": result.adapter.model_dump(exclude={"limits"}),
        "software_adapter": result.software_adapter,
        "flags": result.flags,
        "dtype": result.dtype,
        "dtype_reason": result.dtype_reason,
        "output_ids": [run.output_ids for run in own_runs(result)],
        "blocked_requests": result.blocked_requests,
        "versions": result.versions,
    }
