"""onnxruntime-genai on the CPU, on the package's own file."""

import sys
from pathlib import Path

from shared.base.cpu import physical_cores
from shared.webgpu_bench.engines.job import EngineRun, Job, processor
from shared.webgpu_bench.engines.process import run_child

SCRIPT = Path(__file__).with_name("native_child.py")


def run(job: Job) -> EngineRun:
    """Raises RungFailed where the runtime cannot load or run it."""
    asked = {
        "package": str(job.package),
        "filename": str(job.graph.relative_to(job.package)),
        "questions": job.questions,
        "seconds": job.seconds,
        "session_options": {"intra_op_num_threads": physical_cores()},
    }
    found = run_child(Path(sys.executable), SCRIPT, asked, job.seconds, {})
    return EngineRun(
        runtime=f"onnxruntime-genai {found['version']}",
        where=processor(),
        dtype=job.dtype,
        threads=physical_cores(),
        load_seconds=found["load_seconds"],
        bytes_loaded=sum(p.stat().st_size for p in job.graph.parent.glob(f"{job.graph.name}*")),
        peak_rss_bytes=found["peak_rss_bytes"],
        runs=found["runs"],
    )
