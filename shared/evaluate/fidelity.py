"""Stage 4, fidelity: KL divergence of a 4-bit build from its 16-bit parent on held-out text.

Both models read the same text; at every position the parent's distribution p is compared with the
build's q. KL(p‖q) = Σ p·(ln p − ln q), in nats per token, and what stands beside it are llama.cpp's
`--kl-divergence` statistics (tools/perplexity): mean and 99th percentile, how often both find the same
token likeliest, both perplexities and their ratio; standard errors are clustered by record. What
was compared of a record is a file of its own, so that a killed run goes on with the next.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shared.base.errors import RungFailed
from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.processes import give_back_memory
from shared.base.progress import bar, say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.records import Record
from shared.evaluate.distribution import divergence
from shared.evaluate.models.device import computing
from shared.evaluate.reference import passages, predictions, reference_stage, save_arrays
from shared.evaluate.scoring.statistics import (
    clustered_exponential,
    clustered_mean,
    clustered_percentile,
)
from shared.evaluate.token_windows import HeldOut, Passage, held_out
from shared.olive.build import DTYPES
from shared.source.source import Source, weights_hash

SPEED_PROMPT = 32
DECODED = 32

MEASURED = {
    "kl_divergence": "nats/token",
    "kl_divergence_p99": "nats/token",
    "agreement": "share",
    "perplexity": "",
    "parent_perplexity": "",
    "perplexity_ratio": "",
    "input_kl_divergence": "nats/token",
    "input_perplexity_ratio": "",
    "answer_kl_divergence": "nats/token",
    "answer_perplexity_ratio": "",
    "answer_agreement": "share",
}
"""Each with a standard error; `input_` and `answer_` ones over the tokens of the records' inputs and of
the right answers alone."""


def fidelity_stage(
    domain: Domain,
    source: Source,
    package: StageResult,
    records: tuple[Record, ...] | None = None,
    origin: str = "our own held-out records",
    *,
    device: str = "auto",
    force: bool = False,
) -> StageResult:
    """Measure MEASURED and `cpu_decode_tokens_per_second` of the q4f16 file on the CPU.

    `records`: whose text is read; the domain's own if None. `device`: where the parent reads it. Where
    this has been done in the same number format, the reference is not needed.
    """
    text = held_out(domain.prompt, domain.records if records is None else records, origin)
    tokens = domain.chain.fidelity.tokens
    plan = Plan(
        "fidelity",
        inputs={"package": package.manifest.key, "weights": weights_hash(source.folder)},
        settings={
            "text": sha256_json(asdict(text)),
            "tokens": tokens,
            "origin": origin,
            "computed": str(computing(source.folder, device)),
        },
        tools=tool_versions("onnxruntime", "torch", "transformers", "scipy"),
        code=(__name__,),
    )

    def produce(work: Path) -> Produced:
        reference = reference_stage(source, text, tokens, device=device, force=force)
        give_back_memory()
        return _measure(package, text, reference, work)

    return run_stage(plan, produce, force=force, keep_partial=True)


def _measure(package: StageResult, text: HeldOut, reference: StageResult, work: Path) -> Produced:
    from shared.evaluate.models.onnx import OnnxDecoder

    graph = package.folder / "onnx" / f"model_{next(iter(DTYPES))}.onnx"
    compared = _read_all(lambda: OnnxDecoder(graph, exact=True), reference, work)
    facts = reference.manifest.facts
    how = (
        f"teacher-forced on {text.origin} ({facts['passages']} records), q4f16 on the CPU "
        f"against the 16-bit parent in {facts['computed']}"
    )
    if lost := sum(int((~np.isfinite(r["divergence"] + r["nll"])).sum()) for r in compared):
        raise RungFailed(f"{graph.name}: its logits are no finite numbers at {lost:,} tokens")
    found = _measurements(compared, how)
    prompt = next(passages(reference.folder)).ids[:SPEED_PROMPT].tolist()
    speed = OnnxDecoder(graph).decode_speed(prompt, DECODED)
    found["cpu_decode_tokens_per_second"] = Measurement(
        value=speed, unit="tokens/s", how="greedy, CPU"
    )
    return Produced(
        found,
        facts={
            "origin": text.origin,
            "records": facts["passages"],
            "tokens": int(facts["tokens"]),
            "parent": facts["computed"],
            "reference": reference.manifest.key,
            "reference_bytes": sum(r.bytes for r in reference.manifest.outputs.values()),
            "hidden_by_the_cut_at_most": float(
                np.concatenate([record["hidden"] for record in compared]).mean()
            ),
        },
    )


def _read_all(
    load: Callable[[], Any], reference: StageResult, work: Path
) -> list[dict[str, np.ndarray]]:
    """Per record, arrays over its scored tokens: divergence, hidden, same, nll, parent, answer.

    `load` gives the build's model. Each record's arrays are a file in `work`; what is there is kept.
    """
    files = [work / f"{i:04d}.npz" for i in range(int(reference.manifest.facts["passages"]))]
    missing = sum(not file.exists() for file in files)
    if missing:
        say("      reading the same text with the 4-bit build")
        with bar("fidelity", missing) as step:
            model = load()
            for file, passage in zip(files, passages(reference.folder), strict=True):
                if not file.exists():
                    save_arrays(file, _read(model, passage))
                    step(f"record {file.stem}")
    for partial in work.glob(".*.npz"):
        partial.unlink()
    return [_loaded(file) for file in files]


def _read(model: Any, passage: Passage) -> dict[str, np.ndarray]:
    assert passage.predicted is not None
    parts, first = [], 0
    for logits, following in predictions(model, passage):
        parts.append(vars(divergence(passage.predicted, logits, following, first)))
        first += len(following)
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    answer = np.arange(passage.first, len(passage.ids)) >= passage.answer
    return joined | {"parent": passage.predicted.nll, "answer": answer}


def _loaded(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _measurements(records: list[dict[str, np.ndarray]], how: str) -> dict[str, Measurement]:
    """MEASURED from the arrays of `_read_all`."""
    parts = {"": records}
    for prefix, of_answers in (("input_", False), ("answer_", True)):
        kept = [{n: a[r["answer"] == of_answers] for n, a in r.items()} for r in records]
        parts[prefix] = [r for r in kept if len(r["answer"])]
    figures = {
        prefix + name: (*figure, sum(len(r["answer"]) for r in part))
        for prefix, part in parts.items()
        if part
        for name, figure in _figures(part).items()
    }
    return {
        name: Measurement(
            value=figures[name][0],
            unit=unit,
            how=how,
            n=figures[name][2],
            standard_error=figures[name][1],
        )
        if name in figures
        else Measurement.missing("no such token lies within the text that was read", unit)
        for name, unit in MEASURED.items()
    }


def _figures(records: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float | None]]:
    """Value and standard error of each figure over all tokens of the records."""
    all_of = {name: [r[name] for r in records] for name in records[0]}
    losses = [r["nll"] - r["parent"] for r in records]
    return {
        "kl_divergence": clustered_mean(all_of["divergence"]),
        "kl_divergence_p99": clustered_percentile(all_of["divergence"], 99),
        "agreement": clustered_mean(all_of["same"]),
        "perplexity": clustered_exponential(all_of["nll"]),
        "parent_perplexity": clustered_exponential(all_of["parent"]),
        "perplexity_ratio": clustered_exponential(losses),
    }
