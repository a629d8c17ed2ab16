"""What an engine is given and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from shared.base.errors import RungFailed
from shared.base.manifest import Strict
from shared.setup.browser import Browser
from shared.webgpu_bench.result import BrowserResult, Run


@dataclass(frozen=True)
class Job:
    """`questions`: as the page takes them, with `text` beside the ids for engines that take text.

    `context`: tokens that the longest question and its answer need. `gguf`: the file of the outside
    peer, where the release comes from one. `hardware`: whether a GPU is asked for.
    """

    package: Path
    questions: list[dict[str, Any]]
    seconds: float
    context: int
    hardware: bool
    dtype: str = "q4"
    browser: Browser | None = None
    gguf: Path | None = None

    @property
    def graph(self) -> Path:
        """The package's graph of that dtype; or model.onnx, where a bare build lies there."""
        flat = self.package / "model.onnx"
        return flat if flat.is_file() else self.package / "onnx" / f"model_{self.dtype}.onnx"


class EngineRun(Strict):
    """One engine's answers. Bytes and seconds of a load are cold; `bytes_loaded` is what was read.

    `runtime`: library and version; `where`: the processor or adapter. `software_adapter`: a WebGPU
    device computed on the CPU, whose speed says nothing about a GPU. `agreement`: of how many greedy
    tokens the CPU finds the same likeliest on the same file, [same, all], where that was looked at.
    `busy_percent`: of all cores, by other programs, in the second before the engine started.
    """

    runtime: str
    where: str
    dtype: str
    software_adapter: bool = False
    threads: int | None = None
    load_seconds: float | None = None
    warm_load_seconds: float | None = None
    bytes_loaded: int | None = None
    peak_gpu_bytes: int | None = None
    peak_rss_bytes: int | None = None
    busy_percent: float | None = None
    browser: str = ""
    flags: list[str] = Field(default_factory=list)
    agreement: list[int] = Field(default_factory=list)
    runs: list[Run] = Field(default_factory=list)
    facts: dict[str, Any] = Field(default_factory=dict)


def of_browser(
    result: BrowserResult, browser: str, flags: list[str], runtime: str | None = None
) -> EngineRun:
    """An engine that ran in a page. Raises RungFailed where the page failed."""
    if result.outcome != "ok":
        raise RungFailed(f"the browser: {result.outcome}: {result.error}")
    on_cpu = result.threads is not None
    return EngineRun(
        runtime=runtime
        or f"onnxruntime-web {result.versions.get('onnxruntime_web') or ''}".strip(),
        where=processor() if on_cpu else result.adapter.name,
        dtype=result.dtype or "",
        software_adapter=result.software_adapter and not on_cpu,
        threads=result.threads,
        load_seconds=result.load.seconds,
        warm_load_seconds=result.warm_load.seconds if result.warm_load else None,
        bytes_loaded=result.load.bytes_fetched,
        peak_gpu_bytes=None if on_cpu else result.gpu.peak_requested_bytes,
        browser=browser,
        flags=flags,
        runs=result.runs,
        facts={"adapter": result.adapter.model_dump(exclude={"limits"}), "page": result.versions},
    )


def processor() -> str:
    """The CPU as it names itself."""
    import platform

    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
