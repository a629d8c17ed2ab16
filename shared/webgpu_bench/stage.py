"""Stage 6, bench: the packaged model in a real browser, measured and held against the CPU.

The page loads the package with Transformers.js on WebGPU from a loopback server. On a software
adapter the run is short and every measurement says so: it proves loading, placement and agreement,
never speed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.domain import Domain
from shared.errors import RungFailed
from shared.hashing import files_below, sha256_files, sha256_json
from shared.manifest import Measurement
from shared.progress import say
from shared.setup.browser import Browser, find_browser
from shared.stage import Done, Plan, Produced, run_stage
from shared.webgpu_bench.gpu import has_gpu
from shared.webgpu_bench.result import BrowserResult, Run

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
}


@dataclass(frozen=True)
class Profile:
    """How much is asked of the browser: a GPU is warmed up and measured three times."""

    prompt_tokens: int
    new_tokens: int
    warm_ups: int
    repetitions: int

    @classmethod
    def of(cls, domain: Domain, hardware: bool) -> Profile:
        bench = domain.chain.bench
        if hardware:
            return cls(bench.prompt_tokens, bench.new_tokens, warm_ups=1, repetitions=3)
        return cls(bench.software_prompt_tokens, bench.software_new_tokens, 0, 1)


def bench_stage(domain: Domain, package: Done, *, force: bool = False) -> Done:
    """Run the browser; measurements are NAMES. RungFailed where the page fails (never cached)."""
    browser = find_browser()
    profile = Profile.of(domain, has_gpu())
    record = domain.records[0]
    plan = Plan(
        "bench",
        inputs={"package": package.manifest.key, "harness": _harness_hash()},
        settings={
            "prompt": domain.prompt,
            "record": record.input,
            "profile": vars(profile),
            "time_budget_seconds": domain.chain.bench.time_budget_seconds,
            "browser": browser.version if browser else None,
        },
        code=3,
    )
    bench = _Bench(domain, package.folder, profile, browser)
    return run_stage(plan, bench.produce, force=force)


def _harness_hash() -> str:
    """The page's own files and its npm lock: another harness, another measurement."""
    folder = paths.REPOSITORY / "shared" / "webgpu_bench"
    page = sha256_files(folder / "page", files_below(folder / "page"))
    driver = ["driver.py", "chromium.py", "placement.py", "result.py", "server.py"]
    return sha256_json([page, sha256_files(folder, ["package-lock.json", *driver])])


@dataclass(frozen=True)
class _Bench:
    domain: Domain
    package: Path
    profile: Profile
    browser: Browser | None

    def produce(self, work: Path) -> Produced:
        if self.browser is None:
            reason = "no Chrome or Chromium on this machine; `./inv doctor` says how to get one"
            return Produced({n: Measurement.missing(reason, u) for n, u in NAMES.items()})
        say("      loading the tokenizer")
        from shared.evaluate.chat import Chat

        prompt = self._prompt(Chat(self.package))
        result = self._run(prompt)
        (work / "browser.json").write_text(result.model_dump_json(indent=2) + "\n")
        if result.outcome in MODELS_FAULT:
            return Produced(_not_loaded(result), facts=_facts(result, self.browser))
        if result.outcome != "ok":  # the machine's: not remembered, another run may fare better
            raise RungFailed(f"the browser: {result.outcome}: {result.error}")
        cpu = self._cpu_choices(result, prompt)
        return Produced(_measurements(result, cpu), facts=_facts(result, self.browser))

    def _cpu_choices(self, result: BrowserResult, prompt: list[int]) -> dict[str, list[int]]:
        """Run id → the CPU's likeliest token after the same text, for each token the browser wrote.

        The CPU reads the browser's own text, so that one different token does not make all that
        come after it differ too.
        """
        say("      reading what the browser wrote on the CPU")
        from shared.evaluate.forced import ForcedModel

        model = ForcedModel(self.package / "onnx" / f"model_{result.dtype}.onnx", exact=True)
        choices = {}
        for run in result.runs:
            model.reset()
            logits = model.feed([*prompt, *run.output_ids[:-1]])
            choices[run.id] = [int(i) for i in logits[len(prompt) - 1 :].argmax(axis=-1)]
        return choices

    def _prompt(self, chat: Any) -> list[int]:
        """The end of the domain's first chat, as long as the profile says; it always ends alike."""
        ids = chat.prompt_ids(self.domain.prompt, self.domain.records[0].input)
        return list(ids[-self.profile.prompt_tokens :])

    def _run(self, prompt: list[int]) -> BrowserResult:
        from shared.webgpu_bench.driver import run_in_browser

        assert self.browser is not None
        budget = self.domain.chain.bench.time_budget_seconds
        kinds = ["warm-up"] * self.profile.warm_ups + ["run"] * self.profile.repetitions
        request = {
            "model": self.package.name,
            "dtype": "auto",
            "prompts": [
                {
                    "id": f"{kind}-{number}",
                    "input_ids": prompt,
                    "max_new_tokens": self.profile.new_tokens,
                }
                for number, kind in enumerate(kinds)
            ],
            "deadline_ms": int(budget * 1000),
        }
        return run_in_browser(
            self.package,
            request,
            browser=self.browser.path,
            timeout_s=budget + 60,
            on_progress=lambda line: say(f"      {line}"),
        )


def _not_loaded(result: BrowserResult) -> dict[str, Measurement]:
    reason = f"the browser: {result.outcome}: {result.error}"
    missing = {name: Measurement.missing(reason, unit) for name, unit in NAMES.items()}
    loads = Measurement(
        value=False,
        reason=reason,
        where=describe(result),
        software_adapter=result.software_adapter,
    )
    return missing | {"loads": loads}


def _measurements(result: BrowserResult, cpu: dict[str, list[int]]) -> dict[str, Measurement]:
    runs = [run for run in result.runs if run.id.startswith("run")]
    where = describe(result)
    soft = result.software_adapter

    def measured(name: str, values: list[float], how: str) -> Measurement:
        if not values:
            return Measurement.missing("the time budget ended before it was reached", NAMES[name])
        return Measurement(
            value=statistics.fmean(values),
            unit=NAMES[name],
            how=how,
            where=where,
            n=len(values),
            samples=values,
            software_adapter=soft,
        )

    ttft = [run.ttft_ms / 1000 for run in runs if run.ttft_ms]
    prefill = [run.prompt_tokens / (run.ttft_ms / 1000) for run in runs if run.ttft_ms]
    decode = [1000 * len(run.decode_ms) / sum(run.decode_ms) for run in runs if run.decode_ms]
    errors = len(result.uncaptured_errors) + (result.device_lost is not None)
    on_cpu = _nodes_on_cpu(result, where, soft)
    return {
        "loads": Measurement(
            value=True, how="loaded and generated", where=where, software_adapter=soft
        ),
        "greedy_agreement": _agreement(runs, cpu, where, soft),
        "load_seconds": measured("load_seconds", [result.load.seconds], "cold, loopback"),
        "ttft_seconds": measured("ttft_seconds", ttft, "prompt in to first token out"),
        "prefill_tokens_per_second": measured("prefill_tokens_per_second", prefill, "prompt/TTFT"),
        "decode_tokens_per_second": measured(
            "decode_tokens_per_second", decode, "tokens after the first"
        ),
        "peak_gpu_bytes": Measurement(
            value=result.gpu.peak_requested_bytes,
            unit="B",
            how="requested WebGPU buffer bytes, peak",
            where=where,
            software_adapter=soft,
        ),
        "gpu_errors": Measurement(
            value=errors,
            unit="errors",
            how="uncaptured errors and device losses",
            where=where,
            software_adapter=soft,
        ),
        "nodes_on_cpu": on_cpu,
    }


def _agreement(runs: list[Run], cpu: dict[str, list[int]], where: str, soft: bool) -> Measurement:
    """Share of the tokens the browser wrote that the CPU finds likeliest after the same text."""
    pairs = [pair for run in runs for pair in zip(run.output_ids, cpu[run.id], strict=False)]
    if not pairs:
        return Measurement.missing("the browser produced no token in time", "share")
    return Measurement(
        value=statistics.fmean(ours == theirs for ours, theirs in pairs),
        unit="share",
        how="the browser's greedy tokens that onnxruntime's CPU also finds likeliest, same file",
        where=where,
        n=len(pairs),
        software_adapter=soft,
    )


def _nodes_on_cpu(result: BrowserResult, where: str, soft: bool) -> Measurement:
    if result.placement is None:
        return Measurement.missing("onnxruntime-web's placement log could not be read", "nodes")
    return Measurement(
        value=result.placement.CPUExecutionProvider,
        unit="nodes",
        how=f"onnxruntime-web's log; {result.placement.WebGpuExecutionProvider} on WebGPU",
        where=where,
        software_adapter=soft,
    )


def describe(result: BrowserResult) -> str:
    """One line: the dtype, the adapter, and whether it is a software one."""
    adapter = result.adapter
    name = adapter.description or adapter.device or adapter.architecture or adapter.vendor
    label = " (software adapter)" if result.software_adapter else ""
    return f"{result.dtype} on {name or 'unnamed adapter'}{label}"


def _facts(result: BrowserResult, browser: Browser) -> dict[str, Any]:
    return {
        "browser": f"{browser.kind} {browser.version}",
        "user_agent": result.user_agent,
        "adapter": result.adapter.model_dump(exclude={"limits"}),
        "software_adapter": result.software_adapter,
        "dtype": result.dtype,
        "dtype_reason": result.dtype_reason,
        "output_ids": [run.output_ids for run in result.runs],
        "blocked_requests": result.blocked_requests,
        "versions": result.versions,
    }
