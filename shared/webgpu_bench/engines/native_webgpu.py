"""onnxruntime's native WebGPU provider: a headless GPU machine needs no browser.

Without a GPU it runs through Chromium's SwiftShader where that is installed, labelled as software;
q4f16 then needs shader-f16, which SwiftShader lacks, so the job's dtype decides.
"""

from pathlib import Path

from shared.base.errors import RungFailed
from shared.base.venv import Venv
from shared.webgpu_bench.engines.job import EngineRun, Job
from shared.webgpu_bench.engines.process import run_child
from shared.webgpu_bench.engines.vulkan import ONLY_GPUS, devices, swiftshader

VENV = Venv(".venv-webgpu", "native WebGPU", Path(__file__).with_name("requirements.lock"))
"""onnxruntime-webgpu shares its import name with onnxruntime, so the two cannot live together. Half a
minute, 150 MB."""
SCRIPT = Path(__file__).with_name("webgpu_child.py")


def run(job: Job) -> EngineRun:
    """Raises RungFailed where no WebGPU adapter is found: it never falls back to the CPU."""
    icd = None if job.hardware else _software_icd()
    env = {"VK_ICD_FILENAMES": str(icd), "VK_DRIVER_FILES": str(icd)} if icd else ONLY_GPUS
    asked = {"graph": str(job.graph), "questions": job.questions, "seconds": job.seconds}
    found = run_child(VENV.python(), SCRIPT, asked, job.seconds, env)
    return EngineRun(
        runtime=f"onnxruntime-webgpu {found['version']}",
        where="SwiftShader, Vulkan" if icd else _gpu_name(),
        dtype=job.dtype,
        software_adapter=icd is not None,
        load_seconds=found["load_seconds"],
        bytes_loaded=sum(p.stat().st_size for p in job.graph.parent.glob(f"{job.graph.name}*")),
        peak_rss_bytes=found["peak_rss_bytes"],
        runs=found["runs"],
        facts={"kernels_by_provider": found["kernels"]},
    )


def _software_icd() -> Path:
    icd = swiftshader()
    if icd is None:
        raise RungFailed("no GPU, and no SwiftShader of a Chromium to stand in for one")
    return icd


def _gpu_name() -> str:
    """The GPU, or those of which Dawn may have taken one; where Vulkan names none, what is known."""
    from shared.setup.doctor import _gpu

    names = sorted({device.name for device in devices() if not device.software})
    return f"one of: {', '.join(names)}" if len(names) > 1 else "".join(names) or _gpu().found
