"""How far a 4-bit build is from its 16-bit parent: KL divergence and agreement on given text.

Both models read the same held-out text; at every position the parent's distribution p is held
against the build's q. KL(p‖q) = Σ p·(ln p − ln q), in nats per token, is the measure of llama.cpp's
`--kl-divergence` (tools/perplexity); top-1 agreement is the share of positions with the same
likeliest token. Used to choose between recipes; the rule stands in `better`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

import numpy as np

from shared.domain import Domain
from shared.hashing import sha256_json
from shared.manifest import Manifest, Measurement, tool_versions
from shared.olive.build import DTYPES
from shared.progress import say
from shared.source import Source, weights_hash
from shared.stage import Done, Plan, Produced, run_stage
from shared.units import number

TOKENS = 256
DECODED = 32
SLOWER_BY = 0.5
"""A recipe slower than this share of the fastest one's decode speed is not kept for quality."""


def fidelity_stage(domain: Domain, source: Source, package: Done, *, force: bool = False) -> Done:
    """Measure `kl_divergence`, `agreement` and `cpu_decode_tokens_per_second` of the q4f16 file."""
    text = "\n\n".join(record.input for record in domain.records)
    plan = Plan(
        "fidelity",
        inputs={"package": package.manifest.key, "weights": weights_hash(source.folder)},
        settings={"text": sha256_json(text), "tokens": TOKENS},
        tools=tool_versions("onnxruntime", "torch", "transformers"),
    )
    return run_stage(plan, lambda work: _measure(source.folder, package.folder, text), force=force)


def _measure(parent: Path, package: Path, text: str) -> Produced:
    say("      reading held-out text with the 16-bit parent and the 4-bit build")
    from transformers import AutoTokenizer

    from shared.evaluate.forced import ForcedModel

    ids = AutoTokenizer.from_pretrained(
        package, local_files_only=True, trust_remote_code=False
    ).encode(text)[:TOKENS]
    ours = ForcedModel(package / "onnx" / f"model_{next(iter(DTYPES))}.onnx")
    divergence, agreement = compare_logits(parent_logits(parent, ids), ours.feed(ids))
    how = "teacher-forced on held-out text, q4f16 on the CPU against PyTorch on the parent"
    spread = float(divergence.std(ddof=1) / math.sqrt(len(divergence)))
    return Produced(
        {
            "kl_divergence": Measurement(
                value=float(divergence.mean()),
                unit="nats/token",
                how=how,
                n=len(ids),
                standard_error=spread,
            ),
            "agreement": Measurement(
                value=float(agreement.mean()), unit="share", how=how, n=len(ids)
            ),
            "cpu_decode_tokens_per_second": Measurement(
                value=ours.decode_speed(ids[:32], DECODED), unit="tokens/s", how="greedy, CPU"
            ),
        }
    )


def parent_logits(folder: Path, ids: list[int]) -> np.ndarray:
    """Logits [tokens, vocab] float32 of the 16-bit model, by PyTorch: computed in float32 where its
    weights are under 2 GB, else in bfloat16, which is what fits."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    dtype = torch.float32 if size < 2_000_000_000 else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False
    )
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([ids])).logits[0].float().numpy())


def compare_logits(parent: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(KL divergence in nats, same top-1 as 0/1) per position, from logits [tokens, vocab]."""
    p, q = _log_softmax(parent), _log_softmax(ours)
    divergence = (np.exp(p) * (p - q)).sum(axis=-1)
    agreement = (parent.argmax(axis=-1) == ours.argmax(axis=-1)).astype(np.float64)
    return divergence, agreement


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


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
