"""The page in Firefox: where the adapter has shader-f16 this is q4f16 on WebGPU, GPU or not."""

from shared.base.errors import RungFailed
from shared.base.progress import say
from shared.setup.browser import INSTALL_FIREFOX, find_firefox, firefox_version
from shared.webgpu_bench.engines.job import EngineRun, Job, of_browser
from shared.webgpu_bench.firefox import run_in_firefox
from shared.webgpu_bench.measurements import likeliest

GRACE_SECONDS = 60


def run(job: Job) -> EngineRun:
    """Greedy tokens compared with onnxruntime's CPU on the same file, as the bench does.

    Raises RungFailed where there is no Firefox, or the page failed in it.
    """
    firefox = find_firefox()
    if firefox is None:
        raise RungFailed(f"no Firefox on this machine; run: {INSTALL_FIREFOX}")
    request = {
        "model": job.package.name,
        "dtype": "auto",
        "prompts": job.questions,
        "deadline_ms": int(job.seconds * 1000),
        "warm_load": True,
    }
    result = run_in_firefox(
        job.package,
        request,
        firefox=firefox,
        timeout_s=job.seconds + GRACE_SECONDS,
        on_progress=lambda line: say(f"      {line}"),
    )
    found = of_browser(result, firefox_version(firefox), result.flags)
    return found.model_copy(update={"agreement": _agreement(job, found)})


def _agreement(job: Job, found: EngineRun) -> list[int]:
    """How many of the first question's tokens are the CPU's likeliest after the same text, of all."""
    from shared.evaluate.models.onnx import OnnxDecoder

    prompt = job.questions[0]["input_ids"]
    wrote = found.runs[0].output_ids if found.runs else []
    if not wrote:
        return []
    graph = job.package / "onnx" / f"model_{found.dtype}.onnx"
    logits = OnnxDecoder(graph, exact=True).feed([*prompt, *wrote[:-1]])
    after = logits[len(prompt) - 1 :]
    same = sum(likeliest(row, token) == token for row, token in zip(after, wrote, strict=True))
    return [same, len(wrote)]
