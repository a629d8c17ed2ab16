"""Runs by itself, in .venv-webgpu: a job's questions to onnxruntime's native WebGPU provider.

No browser: Dawn on Vulkan, Metal or Direct3D. The KV cache stays on the device between tokens. Where
WebGPU cannot be had, onnxruntime goes to the CPU with no more than a warning; that is refused here,
by the session's providers and by the kernels that its profile counts.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

PROVIDER = "WebGpuExecutionProvider"
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def main() -> None:
    """As native_child.py. One session for all: Dawn crashes where a second is opened after a first."""
    job: dict[str, Any] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        made = session(job["graph"], str(Path(folder) / "profile"))
        seconds = time.perf_counter() - started
        model = Model(made)
        model.feed(job["questions"][0]["input_ids"][:1])
        kernels = by_provider(json.loads(Path(made.end_profiling()).read_text()))
    until = time.perf_counter() + job["seconds"]
    runs = []
    for question in job["questions"]:
        if time.perf_counter() < until:
            runs.append(model.answer(question, until))
    found = {"load_seconds": seconds, "runs": runs, "kernels": kernels}
    print(json.dumps(found | {"version": ort.__version__}), flush=True)
    os._exit(0)  # the order in which Python would free values and session is not Dawn's


def session(graph: str, profile: str) -> Any:
    """The graph on WebGPU, its first runs profiled; exits where there is no adapter."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = profile
    made = ort.InferenceSession(graph, options, providers=[PROVIDER])
    if made.get_providers()[0] != PROVIDER:
        sys.exit("onnxruntime found no WebGPU adapter and would have run on the CPU")
    return made


def by_provider(events: list[dict[str, Any]]) -> dict[str, int]:
    """Kernels run, by provider; exits where WebGPU ran none, or fewer than the CPU."""
    counts: dict[str, int] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            provider = event["args"].get("provider", "unknown")
            counts[provider] = counts.get(provider, 0) + 1
    if counts.get(PROVIDER, 0) <= counts.get("CPUExecutionProvider", 0):
        sys.exit(f"not a WebGPU run: kernels by provider {counts}")
    return counts


class Model:
    """A decoder graph whose cache stays where the provider keeps it."""

    def __init__(self, made: Any, device: str = "webgpu") -> None:
        self.session, self.device = made, device
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        self.length = 0
        self.cache: dict[str, Any] = {}

    def feed(self, ids: list[int]) -> int:
        """The likeliest token after `ids`, which continue the text so far."""
        return int(np.asarray(self.logits(ids)[-1], np.float32).argmax())

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits [len(ids), vocab], in the graph's type, after each of `ids`."""
        end = self.length + len(ids)
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, end), np.int64))
        if "position_ids" in self.inputs:
            positions = np.arange(self.length, end, dtype=np.int64)[None]
            binding.bind_cpu_input("position_ids", positions)
        for name, spec in self.inputs.items():
            if name.startswith("past_key_values"):
                if name in self.cache:
                    binding.bind_ortvalue_input(name, self.cache[name])
                else:
                    empty = np.zeros((1, spec.shape[1], 0, spec.shape[3]), FLOATS[spec.type])
                    binding.bind_cpu_input(name, empty)
        for name in self.outputs:
            device = ("cpu", 0) if name == "logits" else (self.device, 0)
            binding.bind_output(name, *device)
        self.session.run_with_iobinding(binding)
        found = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        logits = found.pop("logits").numpy()
        self.cache = {n.replace("present", "past_key_values"): v for n, v in found.items()}
        self.length = end
        return np.asarray(logits[0])

    def answer(self, question: dict[str, Any], until: float) -> dict[str, Any]:
        """One run, as result.Run has it; stop tokens do not stop it."""
        ids, limit = question["input_ids"], question["max_new_tokens"]
        self.reset()
        output: list[int] = []
        times: list[float] = []
        last, text = time.perf_counter(), list(ids)
        while len(output) < limit and last < until:
            output.append(self.feed(text))
            text = output[-1:]
            now = time.perf_counter()
            times.append(1000 * (now - last))
            last = now
        return {
            "id": question["id"],
            "prompt_tokens": len(ids),
            "output_ids": output,
            "ttft_ms": times[0] if times else None,
            "decode_ms": times[1:],
            "stopped_by": "max_new_tokens" if len(output) == limit else "deadline",
        }


if __name__ == "__main__":
    main()
