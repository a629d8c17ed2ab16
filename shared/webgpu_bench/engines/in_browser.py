"""The engines that run in a page: WebGPU at either precision, wasm, and wllama."""

from typing import Any

from shared.base.errors import RungFailed
from shared.base.progress import say
from shared.setup.browser import Browser
from shared.webgpu_bench.driver import run_in_browser
from shared.webgpu_bench.engines.job import EngineRun, Job, of_browser
from shared.webgpu_bench.result import BrowserResult

GRACE_SECONDS = 60


def webgpu(job: Job) -> EngineRun:
    """`job.dtype` on WebGPU. RungFailed where the adapter cannot compute in it."""
    result = _ask(job, {"dtype": job.dtype, "warm_load": True})
    if result.outcome == "ok" and job.dtype == "q4f16" and not _has_f16(result):
        raise RungFailed("the adapter has no shader-f16")
    return _told(result, job)


def wasm(job: Job) -> EngineRun:
    """onnxruntime-web's wasm build on the CPU, on the same file."""
    result = _ask(job, {"dtype": job.dtype, "engine": "wasm"})
    return _told(result, job)


def wllama(job: Job) -> EngineRun:
    """llama.cpp in wasm on the GGUF that the release's weights come from: the outside peer."""
    if job.gguf is None:
        raise RungFailed("there is no GGUF of this model to give to wllama")
    more = {"engine": "wllama", "gguf": f"/gguf/{job.gguf.name}", "context": job.context}
    result = _ask(job, more)
    version = f"wllama, llama.cpp {result.versions.get('llama_cpp', '')}"
    return _told(result, job, version)


def _browser(job: Job) -> Browser:
    if job.browser is None:
        raise RungFailed("no Chrome or Chromium on this machine")
    return job.browser


def _ask(job: Job, more: dict[str, Any]) -> BrowserResult:
    if job.dtype == "q4f16" and more.get("engine") is None and not job.hardware:
        raise RungFailed(
            "the software adapter has no shader-f16 (Firefox's has: --browser firefox)"
        )
    request = {
        "model": job.package.name,
        "prompts": job.questions,
        "deadline_ms": int(job.seconds * 1000),
        "placement": False,
        "hardware_only": job.hardware and "engine" not in more,
        **more,
    }
    return run_in_browser(
        job.package,
        request,
        browser=_browser(job).path,
        timeout_s=job.seconds + GRACE_SECONDS,
        on_progress=lambda line: say(f"      {line}"),
        adapter="hardware" if job.hardware else "software",
        extra={"/gguf": job.gguf.parent} if job.gguf else None,
    )


def _has_f16(result: BrowserResult) -> bool:
    return "shader-f16" in result.adapter.features


def _told(result: BrowserResult, job: Job, runtime: str | None = None) -> EngineRun:
    return of_browser(result, _browser(job).version, result.flags, runtime)
