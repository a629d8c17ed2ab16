"""Documents a minute: whole documents in the page, answered one after the other and held to the schema.

The first one's prompt is read from its beginning and is left out of the figures; those after it begin
where the domain's own prompt ends, as in the page that a person uses (page/decode.js).
"""

import statistics
from typing import Any

from shared.base.manifest import Measurement
from shared.base.text import trimmed
from shared.domain.domain import Domain
from shared.domain.grammar.schema import grammar
from shared.webgpu_bench.result import BrowserResult, Run
from shared.webgpu_bench.speed import NO_SPEED

COUNT = 6
NAMES = {
    "seconds_per_document": "s",
    "documents_per_minute": "documents/min",
    "model_runs_per_answer": "runs",
    "dispatches_per_token": "dispatches",
    "buffers_per_token": "buffers",
    "warm_ttft_seconds": "s",
    "cold_ttft_seconds": "s",
}
ENDED = ("eos", "max_new_tokens")


def request(domain: Domain, name: str) -> dict[str, Any]:
    """What page/documents.js is given; `name`: the model's there."""
    return {
        "name": name,
        "system": trimmed(domain.prompt),
        "grammar": grammar(domain.schema),
        "texts": [record.input for record in domain.records[:COUNT]],
        "max_new_tokens": domain.chain.check.max_new_tokens,
    }


def measurements(result: BrowserResult) -> dict[str, Measurement]:
    """NAMES, the median over the documents after the first; `cold_ttft_seconds` is the first one's."""
    whole = [run for run in result.documents if run.stopped_by in ENDED]
    first, after = whole[:1], whole[1:]
    if not after:
        late = "fewer than two documents were answered: the time budget ended, or they have no room"
        reason = NO_SPEED if result.software_adapter else late
        return {name: Measurement.missing(reason, unit) for name, unit in NAMES.items()}
    seconds = [_seconds(run) for run in after]
    prompt = "the domain's prompt is read already"
    held = "held to the schema, the prompt read already, from the question to the answer's end or limit"
    samples = {
        "seconds_per_document": (seconds, held),
        "documents_per_minute": ([60 / each for each in seconds], held),
        "model_runs_per_answer": ([float(run.model_runs or 0) for run in after], held),
        "dispatches_per_token": ([_a_token(run, run.dispatches) for run in after], held),
        "buffers_per_token": ([_a_token(run, run.buffers) for run in after], held),
        "warm_ttft_seconds": ([(run.ttft_ms or 0) / 1000 for run in after], prompt),
        "cold_ttft_seconds": (
            [(first[0].ttft_ms or 0) / 1000],
            "the first document's, all of it read",
        ),
    }
    return {name: _median(name, *found) for name, found in samples.items()}


def _seconds(run: Run) -> float:
    return ((run.ttft_ms or 0) + sum(run.decode_ms)) / 1000


def _a_token(run: Run, count: int | None) -> float:
    return (count or 0) / max(1, len(run.output_ids))


def _median(name: str, samples: list[float], how: str) -> Measurement:
    value = statistics.median(samples)
    about: dict[str, Any] = {"n": len(samples), "samples": samples}
    return Measurement(value=value, unit=NAMES[name], how=f"median; {how}", **about)
