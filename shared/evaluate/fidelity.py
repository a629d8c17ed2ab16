"""Stage 4, fidelity: KL divergence of a 4-bit build from its 16-bit parent on held-out text.

Both models read the same text; at every position the parent's distribution p is compared with the
build's q. KL(p‖q) = Σ p·(ln p − ln q), in nats per token, and what stands beside it are llama.cpp's
`--kl-divergence` statistics (tools/perplexity): mean and 99th percentile, how often both find the same
token likeliest, both perplexities and their ratio; standard errors are clustered by record.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from shared.base.hashing import sha256_json
from shared.base.manifest import Measurement, tool_versions
from shared.base.progress import bar, say
from shared.base.stage import Plan, Produced, StageResult, run_stage
from shared.domain.domain import Domain
from shared.domain.records import Record
from shared.evaluate.distribution import divergence
from shared.evaluate.reference import passages, predictions, reference_stage
from shared.evaluate.scoring.statistics import (
    clustered_exponential,
    clustered_mean,
    clustered_percentile,
)
from shared.evaluate.token_windows import HeldOut, held_out
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
    "answer_kl_divergence": "nats/token",
    "answer_agreement": "share",
}
"""Each with a standard error; `answer_` ones over the tokens of the right answers alone."""


def fidelity_stage(
    domain: Domain,
    source: Source,
    package: StageResult,
    records: tuple[Record, ...] | None = None,
    origin: str = "our own held-out records",
    *,
    force: bool = False,
) -> StageResult:
    """Measure MEASURED and `cpu_decode_tokens_per_second` of the q4f16 file on the CPU.

    `records`: whose text is read; the domain's own if None. Where this has been done, neither torch
    nor the reference is needed.
    """
    text = held_out(domain.prompt, domain.records if records is None else records, origin)
    tokens = domain.chain.fidelity.tokens
    plan = Plan(
        "fidelity",
        inputs={"package": package.manifest.key, "weights": weights_hash(source.folder)},
        settings={"text": sha256_json(asdict(text)), "tokens": tokens, "origin": origin},
        tools=tool_versions("onnxruntime", "torch", "transformers", "scipy"),
        code=(__name__,),
    )
    return run_stage(plan, lambda _: _measure(source, package, text, tokens, force), force=force)


def _measure(
    source: Source, package: StageResult, text: HeldOut, tokens: int, force: bool
) -> Produced:
    from shared.evaluate.models.onnx import OnnxDecoder

    reference = reference_stage(source, text, tokens, force=force)
    graph = package.folder / "onnx" / f"model_{next(iter(DTYPES))}.onnx"
    compared = _read_all(OnnxDecoder(graph, exact=True), reference)
    facts = reference.manifest.facts
    how = (
        f"teacher-forced on {text.origin} ({facts['passages']} records), q4f16 on the CPU "
        f"against the 16-bit parent in {facts['dtype']}"
    )
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
            "reference": reference.manifest.key,
            "reference_bytes": sum(r.bytes for r in reference.manifest.outputs.values()),
            "hidden_by_the_cut_at_most": float(
                np.concatenate([record["hidden"] for record in compared]).mean()
            ),
        },
    )


def _read_all(model: Any, reference: StageResult) -> list[dict[str, np.ndarray]]:
    """Per record, arrays over its scored tokens: divergence, hidden, same, nll, parent, answer."""
    say("      reading the same text with the 4-bit build")
    found = []
    with bar("fidelity", int(reference.manifest.facts["passages"])) as step:
        for passage in passages(reference.folder):
            assert passage.predicted is not None
            parts, first = [], 0
            for logits, following in predictions(model, passage):
                parts.append(vars(divergence(passage.predicted, logits, following, first)))
                first += len(following)
            joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            answer = np.arange(passage.first, len(passage.ids)) >= passage.answer
            found.append(joined | {"parent": passage.predicted.nll, "answer": answer})
            step(f"record {len(found)}")
    return found


def _measurements(records: list[dict[str, np.ndarray]], how: str) -> dict[str, Measurement]:
    """MEASURED from the arrays of `_read_all`."""
    all_of = {name: [r[name] for r in records] for name in records[0]}
    answers = [r for r in records if r["answer"].any()]
    losses = [r["nll"] - r["parent"] for r in records]
    figures = {
        "kl_divergence": clustered_mean(all_of["divergence"]),
        "kl_divergence_p99": clustered_percentile(all_of["divergence"], 99),
        "agreement": clustered_mean(all_of["same"]),
        "perplexity": clustered_exponential(all_of["nll"]),
        "parent_perplexity": clustered_exponential(all_of["parent"]),
        "perplexity_ratio": clustered_exponential(losses),
    }
    if answers:
        of_answers = {n: [r[n][r["answer"]] for r in answers] for n in ("divergence", "same")}
        figures["answer_kl_divergence"] = clustered_mean(of_answers["divergence"])
        figures["answer_agreement"] = clustered_mean(of_answers["same"])
    sizes = {True: sum(int(r["answer"].sum()) for r in answers), False: sum(map(len, losses))}
    return {
        name: Measurement(
            value=figures[name][0],
            unit=unit,
            how=how,
            n=sizes[name.startswith("answer_")],
            standard_error=figures[name][1],
        )
        if name in figures
        else Measurement.missing("no answer lies within the tokens that were read", unit)
        for name, unit in MEASURED.items()
    }
