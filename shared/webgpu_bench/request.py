"""The bench stage's request to the page: `[bench]` on a GPU, a few tokens on a software adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.domain.domain import Domain
from shared.evaluate.token_windows import held_out, inputs_of, prompt_end, windows_of
from shared.webgpu_bench import documents, parity
from shared.webgpu_bench.engines.questions import context_of
from shared.webgpu_bench.result import BrowserResult, ParityPiece
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
SOFTWARE_PATIENCE = 4
"""Times a GPU's time budget: a software adapter reads a 3B's two dozen tokens in minutes, and what it
proves of that model it proves whole."""


@dataclass(frozen=True)
class Profile:
    """How much is asked of the browser: a GPU is warmed up and measured several times."""

    prompt_tokens: int
    new_tokens: int
    warm_ups: int
    repetitions: int
    parity_tokens: int
    hardware: bool
    seconds: float
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
            seconds=bench.time_budget_seconds * (1 if hardware else SOFTWARE_PATIENCE),
            points=Points.of(bench, hardware=hardware),
        )


@dataclass(frozen=True)
class Request:
    """`payload`: what the page is given; `own`: run id → prompt; `rows`: the parity gate's texts, with
    those of `kept` that were read before and that the page is not given again."""

    profile: Profile
    payload: dict[str, Any]
    own: dict[str, list[int]]
    rows: list[list[int]]
    kept: list[ParityPiece]


def make_request(
    domain: Domain, package: Path, chat: Any, profile: Profile, read: Sequence[ParityPiece] = ()
) -> Request:
    """The domain's own questions, llama-bench's points of its text, and held-out text to read;
    on a GPU whole documents besides.

    `read`: what another run of the same request read of it.
    """
    size = sum(path.stat().st_size for path in package.glob("onnx/model_q4.onnx*"))
    how = parity.batching(profile.parity_tokens, size, hardware=profile.hardware)
    rows = windows_of(chat, held_out(domain.prompt, domain.records), how.tokens, how.longest)
    kept, done = parity.whole_rows(list(read), rows)
    own = own_prompts(domain, chat, profile)
    prompts = [
        {"id": name, "input_ids": ids, "max_new_tokens": profile.new_tokens}
        for name, ids in own.items()
    ]
    text, context = inputs_of(chat, domain.records), context_of(package)
    f16 = profile.hardware and (package / "onnx" / "model_q4f16.onnx").is_file()
    payload = {
        "model": package.name,
        "dtype": "auto" if f16 else "q4",  # a software adapter proves in float32
        "prompts": prompts + questions(profile.points, text, context),
        "budget_bytes": domain.chain.bench.gpu_budget_bytes,
        "warm_load": profile.hardware,
        "deadline_ms": int(profile.seconds * 1000),
        "parity": parity.request(rows, how, done) if done < len(rows) else None,
        "documents": documents.request(domain, package.name) if profile.hardware else None,
        "hardware_only": profile.hardware,
    }
    return Request(profile, payload, own, rows, kept)


def unanswered(request: Request, result: BrowserResult) -> list[str]:
    """The domain's own questions that were asked and did not come to their end in the time."""
    done = {run.id for run in result.runs if run.stopped_by in ("eos", "max_new_tokens")}
    asked = [prompt["id"] for prompt in request.payload["prompts"]]
    return [name for name in asked if name in request.own and name not in done]


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
