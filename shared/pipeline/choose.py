"""Which build is better: one rule, for a rung's exporters and for the recipes that `tune` tries.

1. Of the builds within the byte budget (the chain has none), those that decode at 95 % of the fastest
   one's speed or more come first.
2. Among them, the lower KL divergence from the 16-bit parent is better; of equals, the faster, then
   the smaller one.

Speed is the CPU's: the median of rounds that go through all builds in turn, since the best of a few
rounds was once a quarter over that of other builds of the same format. The chain takes WebGPU's in its
place where every build was measured on a hardware adapter; `tune` does not, so that what it writes
into olive.json is the same on any machine.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from shared.base.formatting import number
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import bar
from shared.base.stage import Plan, Produced, run_stage
from shared.olive.calibration_text import chat_tokens
from shared.pipeline.stages import CPU_DECODE, WEBGPU_DECODE, RungRun
from shared.source.tokenizer import Tokenizer

GRAPH = "onnx/model_q4f16.onnx"
NEAR_FASTEST = 0.95
PROMPT = 32
DECODED = 32
ROUNDS = 8

Measured = Mapping[str, Measurement]


def rank(
    builds: Mapping[str, Measured], budget: float = math.inf, *, webgpu: bool = False
) -> tuple[list[str], str]:
    """The names of the builds within the budget, best first, and why the first is the best.

    `webgpu`: go by WebGPU's speed where all have one.
    """
    fitting = {n: found for n, found in builds.items() if _value(found, "q4f16_bytes") <= budget}
    if not fitting:
        return [], "nothing that could be built is within the budget"
    on_gpu = webgpu and all(WEBGPU_DECODE in found for found in fitting.values())
    name, where = (WEBGPU_DECODE, "WebGPU") if on_gpu else (CPU_DECODE, "the CPU")
    speed = {n: _value(found, name) for n, found in fitting.items()}
    fastest = max(speed.values())
    near = {n for n in fitting if speed[n] >= NEAR_FASTEST * fastest}
    loss = {n: _value(found, "kl_divergence") for n, found in fitting.items()}
    order = sorted(
        fitting,
        key=lambda n: (n not in near, loss[n], -speed[n], _value(fitting[n], "q4f16_bytes")),
    )
    count = f"{len(near)} build{'s' * (len(near) > 1)}"
    within = "within the budget and " if budget < math.inf else ""
    return order, (
        f"{order[0]}: the lowest KL divergence ({loss[order[0]]:.3g} nats/token) of the {count} "
        f"{within}within 5 % of the fastest on {where} ({number(fastest, 'tokens/s')})"
    )


def _value(found: Measured, name: str) -> float:
    return float(found[name].value or 0)


def measure_speeds(runs: Mapping[str, RungRun]) -> None:
    """Give each run its build's decode speed on the CPU, measured beside the others'."""
    first = next(iter(runs.values()))
    record = first.text[0]
    plan = Plan(
        "speed",
        inputs={name: run.stages["package"].manifest.key for name, run in runs.items()},
        settings={
            "text": [first.domain.prompt, record.input, record.gold],
            "tokens": [PROMPT, DECODED, ROUNDS],
        },
        tools=tool_versions("onnxruntime"),
        code=(__name__,),
    )

    def produce(_: Path) -> Produced:
        packages = {name: run.stages["package"].folder for name, run in runs.items()}
        tokenizer = Tokenizer(next(iter(packages.values())))
        ids = chat_tokens(tokenizer, first.domain.prompt, record)
        how = f"greedy, CPU, the median of {ROUNDS} rounds taken in turn"
        speeds = decode_speeds({name: folder / GRAPH for name, folder in packages.items()}, ids)
        return Produced(
            {n: Measurement(value=speed, unit="tokens/s", how=how) for n, speed in speeds.items()}
        )

    measured = run_stage(plan, produce).manifest.measurements
    for name, run in runs.items():
        run.cpu_decode = measured[name]


def decode_speeds(graphs: Mapping[str, Path], ids: list[int]) -> dict[str, float]:
    """Greedy tokens/s of each graph on the CPU: the median of ROUNDS that go through all of them in
    turn, so that what else the machine does hits none of them alone."""
    from shared.evaluate.models.onnx import OnnxDecoder

    speeds: dict[str, list[float]] = {name: [] for name in graphs}
    with bar("decode", ROUNDS * len(graphs), "runs") as step:
        for _ in range(ROUNDS):
            for name, graph in graphs.items():
                speeds[name].append(OnnxDecoder(graph).decode_speed(ids[:PROMPT], DECODED))
                step(name)
    return {name: median(rounds) for name, rounds in speeds.items()}
