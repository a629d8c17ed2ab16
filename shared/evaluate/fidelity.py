"""How far a 4-bit build is from its 16-bit parent, on held-out text; and which recipe is kept.

Both models read the same text; at every position the parent's distribution p is held against the
build's q. KL(p‖q) = Σ p·(ln p − ln q), in nats per token, and what stands beside it are llama.cpp's
`--kl-divergence` statistics (tools/perplexity): mean and 99th percentile, how often both find the same
token likeliest, both perplexities and their ratio. The parent's side comes from the reference
(shared/evaluate/reference.py); the standard errors from shared/evaluate/scoring/clustered.py.
`better` chooses between recipes by the same figures.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

import numpy as np

from shared.base.formatting import number
from shared.base.hashing import sha256_json
from shared.base.manifest import Manifest, Measurement, tool_versions
from shared.base.progress import bar, say
from shared.base.stage import Done, Plan, Produced, run_stage
from shared.domain.domain import Domain
from shared.domain.records import Record
from shared.evaluate.scoring import clustered as spread
from shared.olive.build import DTYPES
from shared.source.source import Source, weights_hash

SPEED_PROMPT = 32
DECODED = 32
SLOWER_BY = 0.5
"""A recipe slower than this share of the fastest one's decode speed is not kept for quality."""

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
    package: Done,
    records: tuple[Record, ...] | None = None,
    origin: str = "our own held-out records",
    *,
    force: bool = False,
) -> Done:
    """Measure MEASURED and `cpu_decode_tokens_per_second` of the q4f16 file on the CPU.

    `records`: whose text is read; the domain's own if None. Where this has been done, neither torch
    nor the reference is needed.
    """
    text = _text(domain, domain.records if records is None else records, origin)
    tokens = domain.chain.fidelity.tokens
    plan = Plan(
        "fidelity",
        inputs={"package": package.manifest.key, "weights": weights_hash(source.folder)},
        settings={"text": sha256_json(text), "tokens": tokens, "origin": origin},
        tools=tool_versions("onnxruntime", "torch", "transformers", "scipy"),
        code=(__name__,),
    )
    return run_stage(plan, lambda _: _measure(source, package, text, tokens, force), force=force)


def _text(domain: Domain, records: tuple[Record, ...], origin: str) -> dict[str, Any]:
    pairs = [[r.input, json.dumps(r.gold, ensure_ascii=False)] for r in records]
    return {"system": domain.prompt, "pairs": pairs, "origin": origin}


def _measure(
    source: Source, package: Done, text: dict[str, Any], tokens: int, force: bool
) -> Produced:
    from shared.evaluate.models.onnx import ForcedModel
    from shared.evaluate.reference import HeldOut, reference_stage

    pairs = tuple((question, answer) for question, answer in text["pairs"])
    held_out = HeldOut(text["system"], pairs, text["origin"])
    reference = reference_stage(source, held_out, tokens, force=force)
    graph = package.folder / "onnx" / f"model_{next(iter(DTYPES))}.onnx"
    distances = _read_all(ForcedModel(graph, exact=True), reference)
    facts = reference.manifest.facts
    how = (
        f"teacher-forced on {text['origin']} ({facts['passages']} records), q4f16 on the CPU "
        f"against the 16-bit parent in {facts['dtype']}"
    )
    count = int(facts["tokens"])
    found = _measurements(distances, how)
    speed = ForcedModel(graph).decode_speed(_prompt(reference), DECODED)
    found["cpu_decode_tokens_per_second"] = Measurement(
        value=speed, unit="tokens/s", how="greedy, CPU"
    )
    hidden = float(np.concatenate([d["hidden"] for d in distances]).mean())
    return Produced(
        found,
        facts={
            "origin": text["origin"],
            "records": facts["passages"],
            "tokens": count,
            "reference": reference.manifest.key,
            "reference_bytes": sum(r.bytes for r in reference.manifest.outputs.values()),
            "hidden_by_the_cut_at_most": hidden,
        },
    )


def _prompt(reference: Done) -> list[int]:
    from shared.evaluate.reference import passages

    return [int(i) for i in next(passages(reference.folder)).ids[:SPEED_PROMPT]]


def _read_all(model: Any, reference: Done) -> list[dict[str, np.ndarray]]:
    """Per record, arrays over its scored tokens: divergence, hidden, same, nll, parent, answer."""
    from shared.evaluate.distribution import distance
    from shared.evaluate.reference import passages, predictions

    say("      reading the same text with the 4-bit build")
    found = []
    with bar("fidelity", int(reference.manifest.facts["passages"])) as step:
        for passage in passages(reference.folder):
            assert passage.cut is not None
            parts, first = [], 0
            for logits, following in predictions(model, passage):
                parts.append(vars(distance(passage.cut, logits, following, first)))
                first += len(following)
            joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            positions = np.arange(passage.first, len(passage.ids))
            found.append(
                joined | {"parent": passage.cut.nll, "answer": positions >= passage.answer}
            )
            step(f"record {len(found)}")
    return found


def _measurements(distances: list[dict[str, np.ndarray]], how: str) -> dict[str, Measurement]:
    """MEASURED from the arrays of `_read_all`."""
    all_of = {name: [d[name] for d in distances] for name in distances[0]}
    answers = [d for d in distances if d["answer"].any()]
    of_answers = {n: [d[n][d["answer"]] for d in answers] for n in ("divergence", "same")}
    losses = [d["nll"] - d["parent"] for d in distances]
    figures = {
        "kl_divergence": spread.mean(all_of["divergence"]),
        "kl_divergence_p99": spread.percentile(all_of["divergence"], 99),
        "agreement": spread.mean(all_of["same"]),
        "perplexity": spread.exponential(all_of["nll"]),
        "parent_perplexity": spread.exponential(all_of["parent"]),
        "perplexity_ratio": spread.exponential(losses),
    }
    if answers:
        figures["answer_kl_divergence"] = spread.mean(of_answers["divergence"])
        figures["answer_agreement"] = spread.mean(of_answers["same"])
    sizes = {True: sum(int(d["answer"].sum()) for d in answers), False: sum(map(len, losses))}
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


@dataclass(frozen=True)
class Candidate:
    """A recipe's manifests; `bench` where both were run on a hardware adapter."""

    package: Manifest
    fidelity: Manifest
    bench: Manifest | None = None


def better(candidates: dict[str, Candidate]) -> tuple[list[str], str]:
    """Order two or more recipes, best first, and say why the first is better than the second.

    The rule: a recipe that decodes at less than half the fastest one's speed comes last (on WebGPU
    where every candidate was measured on a GPU, else on the CPU); among the others the lower KL
    divergence from the parent wins where it differs by more than two standard errors; else the
    faster one; bytes decide a tie.
    """
    fastest = max(_speed(c) for c in candidates.values())

    def compare(a: str, b: str) -> int:
        return _decide(candidates[a], candidates[b], fastest)[0]

    order = sorted(candidates, key=cmp_to_key(compare))
    first, second = order[0], order[1]
    words = _decide(candidates[first], candidates[second], fastest)[1]
    return order, f"{first} {words.format(other=second)}"


def _decide(a: Candidate, b: Candidate, fastest: float) -> tuple[int, str]:
    """Negative where `a` is better; the words say why the better one is."""
    slow = [_speed(c) < SLOWER_BY * fastest for c in (a, b)]
    pair = " against ".join(number(s, "tokens/s") for s in sorted(map(_speed, (a, b)))[::-1])
    if slow[0] != slow[1]:
        return (1 if slow[0] else -1), f"decodes more than twice as fast as {{other}} ({pair})"
    loss_a, loss_b = (c.fidelity.measurements["kl_divergence"] for c in (a, b))
    gap = float(loss_a.value or 0) - float(loss_b.value or 0)
    noise = 2 * max(loss_a.standard_error or 0, loss_b.standard_error or 0)
    if abs(gap) > noise:
        words = f"is nearer to the 16-bit parent than {{other}} by {abs(gap):.3g} nats/token"
        return (1 if gap > 0 else -1), words
    if _speed(a) != _speed(b):
        words = f"decodes faster than {{other}} ({pair}) and is as near to the 16-bit parent"
        return (1 if _speed(a) < _speed(b) else -1), words
    return (
        1 if _bytes(a) > _bytes(b) else -1
    ), "is the smaller one, all else being equal to {other}"


def _speed(candidate: Candidate) -> float:
    if candidate.bench:
        return _value(candidate.bench, "decode_tokens_per_second")
    return _value(candidate.fidelity, "cpu_decode_tokens_per_second")


def _bytes(candidate: Candidate) -> float:
    return _value(candidate.package, "q4f16_bytes")


def _value(manifest: Manifest, name: str) -> float:
    value = manifest.measurements[name].value
    return float(value) if isinstance(value, int | float) else math.inf
