"""The bench stage's request to the page: `[bench]` on a GPU, a few tokens on a software adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.domain.domain import Domain
from shared.evaluate.token_windows import held_out, inputs_of, prompt_end, windows_of
from shared.webgpu_bench import parity
from shared.webgpu_bench.engines.questions import context_of
from shared.webgpu_bench.speed import (
    REPETITIONS,
    WARM_UPS,
    Points,
    new_tokens,
    prompt_tokens,
    questions,
)

SOFTWARE_REPETITIONS = 2
"""Each repetition asks another record's question: greedy ids are compared on several prompts."""
SOFTWARE_PARITY_TOKENS = 512


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
    def of(cls, domain: Domain, hardware: bool) -> Profile:
        bench, positions = domain.chain.bench, domain.chain.bench.parity_tokens
        return cls(
            prompt_tokens=prompt_tokens(hardware=hardware),
            new_tokens=new_tokens(bench, hardware=hardware),
            warm_ups=WARM_UPS if hardware else 0,
            repetitions=REPETITIONS if hardware else SOFTWARE_REPETITIONS,
            parity_tokens=positions if hardware else min(positions, SOFTWARE_PARITY_TOKENS),
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
