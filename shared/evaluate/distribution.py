"""Distributions over the vocabulary, truncated to their likeliest tokens, and the KL divergence.

Of a reference p only the likeliest tokens are kept, as many as it takes until at most TAIL of the
probability is left out, and KEEP_AT_MOST however flat p is; of the rest, its mass P and the sum S of
p·ln p, both exact. The other side's q is at hand in full. With Q the mass that q gives to what was
left out,

    KL(p‖q) = Σ_kept p·(ln p − ln q) + S − Σ_rest p·ln q

and only the last sum is not known. `kl_divergence` puts P·ln(P/Q) for S − Σ_rest p·ln q, which by
the log-sum inequality (Cover and Thomas, Elements of Information Theory, 2nd ed., theorem 2.7.1) is
never too much; and since no ln q in the rest is below its least, the truth is higher by at most

    S − P·ln P + P·(ln Q − min_rest ln q)

which `divergence` computes with it: the bound of what truncation hides.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

TAIL = 1e-3
"""Probability that may be left out at each position."""

KEEP_AT_MOST = 16_384
"""Tokens kept of one position, so that its size has a bound for any vocabulary: 128 kB."""


@dataclass(frozen=True)
class TruncatedDistribution:
    """m positions of one text. Logarithms are natural; kept tokens are flat, row after row.

    `tokens` [kept], of the smallest unsigned type for the vocabulary, and `log_p` float32 [kept];
    `ends` int64 [m]: where each row ends; `best` int64 [m]: the likeliest token; `mass` and `plogp`
    float64 [m]: P and S of what is left out; `nll` float64 [m]: −ln p of the token that follows.
    """

    tokens: np.ndarray
    log_p: np.ndarray
    ends: np.ndarray
    best: np.ndarray
    mass: np.ndarray
    plogp: np.ndarray
    nll: np.ndarray

    def rows(self) -> list[slice]:
        """Where each position's kept tokens stand."""
        starts = [0, *self.ends[:-1].tolist()]
        return [slice(a, b) for a, b in zip(starts, self.ends.tolist(), strict=True)]


@dataclass(frozen=True)
class Divergence:
    """Per position, float64 [m]: KL(p‖q) in nats, what truncation may hide of it at most, whether
    both find the same token likeliest (0 or 1), and q's −ln of the token that follows."""

    divergence: np.ndarray
    hidden: np.ndarray
    same: np.ndarray
    nll: np.ndarray


def kl_divergence(log_p: np.ndarray, log_q: np.ndarray, p_rest: Any, q_rest: Any) -> Any:
    """KL(p‖q) in nats over the kept tokens (last axis) and all others as one outcome.

    A lower bound of that over all tokens. `p_rest`, `q_rest`: the mass of the others, one a position.
    """
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1) + scipy.special.rel_entr(p_rest, q_rest)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def truncate(
    logits: np.ndarray, following: np.ndarray, tail: float = TAIL, most: int = KEEP_AT_MOST
) -> TruncatedDistribution:
    """The distributions of logits [m, vocab], truncated; `following` [m]: the tokens that come next."""
    log_p = log_softmax(logits)
    rows = [_kept(row, tail, most) for row in log_p]
    kept = [row[tokens] for row, (tokens, _, _) in zip(log_p, rows, strict=True)]
    return TruncatedDistribution(
        np.concatenate([tokens for tokens, _, _ in rows]).astype(
            np.min_scalar_type(log_p.shape[-1] - 1)
        ),
        np.concatenate(kept, dtype=np.float32),
        np.cumsum([len(tokens) for tokens, _, _ in rows]),
        logits.argmax(axis=-1),
        np.array([mass for _, mass, _ in rows]),
        np.array([plogp for _, _, plogp in rows]),
        -log_p[np.arange(len(log_p)), following],
    )


def _kept(log_p: np.ndarray, tail: float, most: int) -> tuple[np.ndarray, float, float]:
    """The tokens that are kept of one row, likeliest first; P and S of the others."""
    most = min(most, len(log_p))
    split = np.argpartition(-log_p, most - 1)
    top = split[:most][np.argsort(-log_p[split[:most]], kind="stable")]
    order = np.concatenate([top, split[most:]])
    p = np.exp(log_p[order])
    left = p[::-1].cumsum()[::-1]  # left[i]: the mass from the i-th on
    size = max(1, int(np.count_nonzero(left[:most] > tail)))
    mass = float(left[size]) if size < len(p) else 0.0
    return order[:size], mass, float((p[size:] * log_p[order[size:]]).sum())


def joined(parts: list[TruncatedDistribution]) -> TruncatedDistribution:
    """The positions of all parts, in order."""
    offsets = np.cumsum([0, *(len(part.tokens) for part in parts[:-1])])
    ends = [part.ends + offset for part, offset in zip(parts, offsets, strict=True)]
    names = TruncatedDistribution.__dataclass_fields__
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return TruncatedDistribution(**arrays | {"ends": np.concatenate(ends)})


def divergence(
    p: TruncatedDistribution, logits: np.ndarray, following: np.ndarray, first: int = 0
) -> Divergence:
    """Logits [m, vocab] of the other model compared with p's positions first … first + m."""
    log_q = log_softmax(logits)
    found, hidden = np.empty(len(log_q)), np.empty(len(log_q))
    for i, (row, where) in enumerate(zip(log_q, p.rows()[first:], strict=False)):
        tokens, mass = p.tokens[where], p.mass[first + i]
        rest = np.delete(row, tokens)
        q_rest = np.exp(rest).sum()
        found[i] = kl_divergence(p.log_p[where].astype(np.float64), row[tokens], mass, q_rest)
        hidden[i] = _hidden(mass, p.plogp[first + i], rest, q_rest) if mass > 0 else 0.0
    same = p.best[first : first + len(log_q)] == logits.argmax(axis=-1)
    nll = -log_q[np.arange(len(log_q)), following]
    return Divergence(found, hidden, same.astype(np.float64), nll)


def _hidden(mass: float, plogp: float, rest: np.ndarray, q_rest: float) -> float:
    """How much higher the divergence may be: the bound in this module's first lines."""
    return float(plogp - mass * np.log(mass) + mass * (np.log(q_rest) - rest.min()))
