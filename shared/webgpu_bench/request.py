"""The bench stage's request to the page: much of a GPU, of a software adapter what fits its time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared.domain.domain import Domain
from shared.evaluate.held_out import held_out, inputs_of, prompt_end, windows_of
from shared.webgpu_bench import parity
from shared.webgpu_bench.engines.questions import context_of
from shared.webgpu_bench.figures import Points, questions

SOFTWARE_REPETITIONS = 2
"""Each repetition asks another record's question: greedy ids are compared on several prompts."""


@dataclass(frozen=True)
class Profile:
    """How much is asked of the browser: a GPU is warmed up and measured several times."""

    prompt_tokens: int
    new_tokens: int
    warm_ups: int
    repetitions: int
    parity_tokens: int
    hardware: bool
    points: Points

    @classmethod
    def of(cls, domain: Domain, hardware: bool) -> Self:
        bench = domain.chain.bench
        return cls(
            prompt_tokens=bench.prompt_tokens if hardware else bench.software_prompt_tokens,
            new_tokens=bench.new_tokens if hardware else bench.software_new_tokens,
            warm_ups=bench.warm_ups if hardware else 0,
            repetitions=bench.repetitions if hardware else SOFTWARE_REPETITIONS,
            parity_tokens=bench.parity_tokens if hardware else bench.software_parity_tokens,
            hardware=hardware,
            points=Points.of(bench, hardware=hardware),
        )


@dataclass(frozen=True)
class Request:
    """`payload`: what the page is given; `own`: run id → prompt; `rows`: the parity gate's texts."""

    profile: Profile
    payload: dict[str, Any]
    own: dict[str, list[int]]
    rows: list[list[int]]


def make_request(domain: Domain, package: Path, chat: Any, profile: Profile) -> Request:
    """The domain's own questions, llama-bench's points of its text, and held-out text to read."""
    how = parity.batching(profile.parity_tokens, hardware=profile.hardware)
    rows = windows_of(chat, held_out(domain.prompt, domain.records), how.tokens, how.longest)
    own = own_prompts(domain, chat, profile)
    prompts = [
        {"id": name, "input_ids": ids, "max_new_tokens": profile.new_tokens}
        for name, ids in own.items()
    ]
    text, context = inputs_of(chat, domain.records), context_of(package)
    payload = {
        "model": package.name,
        "dtype": "auto" if (package / "onnx" / "model_q4f16.onnx").is_file() else "q4",
        "prompts": prompts + questions(profile.points, text, context),
        "budget_bytes": domain.chain.bench.gpu_budget_bytes,
        "warm_load": True,
        "deadline_ms": int(domain.chain.bench.time_budget_seconds * 1000),
        "parity": parity.request(rows, how),
        "hardware_only": profile.hardware,
    }
    return Request(profile, payload, own, rows)


def own_prompts(domain: Domain, chat: Any, profile: Profile) -> dict[str, list[int]]:
    """Run id → the end of one record's chat, as long as the profile says; all end alike.

    "run-0" is the first record's, as other engines ask it; warm-ups ask the same records.
    """
    turns = [("warm-up", i) for i in range(profile.warm_ups)]
    turns += [("run", i) for i in range(profile.repetitions)]
    records = domain.records
    return {
        f"{kind}-{i}": prompt_end(
            chat, domain.prompt, records[i % len(records)], profile.prompt_tokens
        )
        for kind, i in turns
    }
