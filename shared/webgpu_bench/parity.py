"""WebGPU compared with the CPU: top-1 agreement and KL divergence, teacher-forced on the same file.

The browser reads windows of whole chats (record and gold answer) and sends back, for every position,
its `TOP_K` largest logits and the log-sum-exp of all, and for one position all logits; onnxruntime's
CPU reads the same ids with the int8 rounding of activations switched off. Reported are top-1 agreement;
KL(CPU ‖ WebGPU), taken over the browser's TOP_K likeliest tokens and all others as one: a lower bound
(shared/evaluate/distribution.py), beside which stands the probability the CPU gives to the others; and
the largest difference of a logit over the position's largest logit.

A software adapter computes in float32, as the CPU does here: what it reads differs by rounding alone,
and a single wrong block shows. A GPU computes in int8 and fp16, so its bounds are others.
"""

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy

from shared.base.manifest import Measurement
from shared.evaluate.distribution import kl_divergence, log_softmax
from shared.evaluate.scoring.statistics import rate
from shared.webgpu_bench.result import Parity, ParityPiece

TOP_K = 64
NAMES = {
    "parity_agreement": "share",
    "parity_kl_divergence": "nats/token",
    "parity_logits_error": "relative",
    "parity_tokens": "tokens",
    "parity_finite": "share",
}
AMPLIFIED, AMPLIFIED_SHARE, FEWEST = 2e-4, 0.02, 20
"""A model can amplify what float32 rounds away a hundred times, most often at the first tokens of a
text, where no two orders of summation agree. So the largest errors are left out: of this share of the
positions, of FEWEST one, and up to this size. The least planted fault (docs/planted.md) is over the
gate's bound at every tenth position; a right model was at one in two hundred."""
LARGE_BYTES = 500_000_000
TINY = 1e-12
"""The least probability a merged outcome is given: what float32's log-sum-exp cannot tell from 0."""


@dataclass(frozen=True)
class Batching:
    """How the rows are fed: `tokens` positions in all, in rows of `longest`, `batch` rows at once,
    `piece` tokens a pass.

    On a GPU one row after another, as a page would. On a software adapter a pass costs seconds, so
    several rows share one; with a cache onnxruntime-web's attention takes several rows only token by
    token. So its rows are short: one pass without a cache, then one token with it. A pass of a large
    model costs minutes: it has one row, so that what the time allows is read to its end.
    """

    tokens: int
    batch: int
    piece: int
    longest: int


def batching(tokens: int, model_bytes: int, *, hardware: bool) -> Batching:
    """The way to feed `tokens` positions to a GPU or to a software adapter."""
    if hardware:
        return Batching(tokens, batch=1, piece=128, longest=512)
    if model_bytes >= LARGE_BYTES:
        return Batching(tokens, batch=1, piece=23, longest=24)
    return Batching(tokens, batch=8, piece=31, longest=32)


def request(rows: list[list[int]], how: Batching, done: int = 0) -> dict[str, Any]:
    """The page's part of the request (page/parity.js); the first `done` rows were read before."""
    fed = {"batch": how.batch, "piece": how.piece, "top_k": TOP_K}
    return {"rows": rows[done:], "offset": done, **fed}


def whole_rows(pieces: list[ParityPiece], rows: list[list[int]]) -> tuple[list[ParityPiece], int]:
    """The pieces of those first rows that were read to their end, and how many rows these are."""
    ends = {p.row + at: p.start + p.tokens for p in pieces for at in range(p.rows)}
    done = next((i for i, row in enumerate(rows) if ends.get(i, 0) < len(row)), len(rows))
    return [piece for piece in pieces if piece.row + piece.rows <= done], done


class Decoder(Protocol):
    """shared.evaluate.models.onnx.OnnxDecoder: logits [len(ids), vocab] after each of `ids`."""

    def reset(self) -> None: ...
    def feed(self, ids: list[int]) -> np.ndarray: ...


@dataclass(frozen=True)
class Comparison:
    """Per position: KL(CPU ‖ WebGPU) in nats, same top-1 as 0/1, the CPU's mass on merged tokens, the
    largest difference of a logit over the largest logit."""

    divergence: np.ndarray
    agreement: np.ndarray
    merged: np.ndarray
    error: np.ndarray

    @property
    def worst_error(self) -> tuple[float, int]:
        """The largest error but for what may be amplified rounding; of how many positions."""
        ordered = np.sort(self.error)
        count = max(int(AMPLIFIED_SHARE * len(ordered)), int(len(ordered) >= FEWEST))
        if not ordered[-1] <= AMPLIFIED:
            return float(ordered[-1]), 0
        return float(ordered[-1 - count]), count


def compare(cpu: Decoder, rows: list[list[int]], parity: Parity) -> Comparison:
    """Read on the CPU what the browser has read, and compare them position by position."""
    found = []
    for number, row in enumerate(rows):
        cpu.reset()
        for start, theirs in _of_row(parity.pieces, number):
            logits = cpu.feed(row[start : start + len(theirs.log_sums)])
            found.append(compare_position(logits, theirs))
    columns = zip(*found, strict=True) if found else ([], [], [], [])
    return Comparison(*(np.concatenate(list(c)) if c else np.zeros(0) for c in columns))


@dataclass(frozen=True)
class Summary:
    """The browser's side of some positions: ids and logits [tokens, k], log_sums [tokens]; `whole`
    [vocab]: all logits of the last of them."""

    ids: np.ndarray
    logits: np.ndarray
    log_sums: np.ndarray
    whole: np.ndarray | None = None


def _of_row(pieces: list[ParityPiece], number: int) -> Iterator[tuple[int, Summary]]:
    for piece in pieces:
        if piece.row <= number < piece.row + piece.rows:
            log_sums = _array(piece.log_sums, np.float32, (piece.rows, piece.tokens))
            shape = (piece.rows, piece.tokens, -1)
            ids = _array(piece.ids, np.int32, shape)
            logits = _array(piece.logits, np.float32, shape)
            at = number - piece.row
            whole = _array(piece.whole, np.float32, (-1,)) if piece.whole and not at else None
            yield piece.start, Summary(ids[at], logits[at], log_sums[at].astype(np.float64), whole)


def _array(text: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def compare_position(cpu: np.ndarray, theirs: Summary) -> tuple[np.ndarray, ...]:
    """(KL, same top-1, merged mass, error) per position from the CPU's logits [tokens, vocab].

    A position whose WebGPU logits are not finite has an infinite divergence and error, and no
    agreement.
    """
    all_p, log_q = log_softmax(cpu), theirs.logits.astype(np.float64) - theirs.log_sums[:, None]
    finite = np.isfinite(theirs.log_sums) & np.isfinite(theirs.logits).all(axis=-1)
    broken = ~finite | (theirs.ids < 0).any(axis=-1)
    log_p = np.take_along_axis(all_p, np.maximum(theirs.ids, 0), axis=-1)
    with np.errstate(invalid="ignore"):
        p_rest, q_rest = (np.clip(1 - np.exp(x).sum(axis=-1), TINY, 1) for x in (log_p, log_q))
        divergence = np.maximum(kl_divergence(log_p, log_q, p_rest, q_rest), 0)
    agreement = (cpu.argmax(axis=-1) == theirs.ids[:, 0]) & ~broken
    ours = np.take_along_axis(cpu, np.maximum(theirs.ids, 0), axis=-1)
    with np.errstate(invalid="ignore"):
        error = np.abs(theirs.logits - ours).max(axis=-1) / np.abs(cpu).max(axis=-1)
    if theirs.whole is not None:  # a row of the head that is never likely shows nowhere else
        off = np.abs(theirs.whole - cpu[-1]).max() / np.abs(cpu[-1]).max()
        error[-1] = np.fmax(error[-1], off)
        broken[-1] |= not np.isfinite(theirs.whole).all()
    wrong = (np.where(broken, np.inf, values) for values in (divergence, error))
    return next(wrong), agreement.astype(np.float64), p_rest, next(wrong)


def measurements(
    compared: Comparison, wanted: int, where: str, soft: bool
) -> dict[str, Measurement]:
    """NAMES, with standard errors over positions and Wilson's interval for the agreement."""
    n = len(compared.agreement)
    if not n:
        return missing("the time budget ended before any text was read", soft)
    same = rate(list(map(bool, compared.agreement)))
    mean = float(compared.divergence.mean())
    worst, left_out = compared.worst_error
    more = f", without the {left_out} largest of {n}, none over {AMPLIFIED:g}" if left_out else ""
    finite, numbers = math.isfinite(mean), float(np.isfinite(compared.divergence).mean())
    how = "teacher-forced on held-out chats, WebGPU against onnxruntime's CPU on the same file"
    not_numbers = None if finite else "WebGPU computed logits that are not numbers"
    common: dict[str, Any] = {"where": where, "n": n, "software_adapter": soft}
    return {
        "parity_agreement": Measurement(
            value=same.value,
            unit="share",
            how=f"same likeliest token; {how}",
            standard_error=math.sqrt(same.value * (1 - same.value) / n),
            low=same.low,
            high=same.high,
            **common,
        ),
        "parity_kl_divergence": Measurement(
            value=mean if finite else None,
            unit="nats/token",
            how=f"over the browser's {TOP_K} likeliest tokens and all others as one (a lower bound; "
            f"those hold {compared.merged.mean():.2g} on average); {how}",
            standard_error=float(scipy.stats.sem(compared.divergence))
            if finite and n > 1
            else None,
            reason=not_numbers,
            **common,
        ),
        "parity_logits_error": Measurement(
            value=worst if finite else None,
            unit="relative",
            how=f"largest |difference| of {TOP_K} likeliest tokens' logits, of all at one position, "
            f"over the position's largest |logit|, worst position{more}; {how}",
            reason=not_numbers,
            **common,
        ),
        "parity_tokens": _read(n, wanted, where, soft),
        "parity_finite": Measurement(
            value=numbers,
            unit="share",
            how="positions at which all that WebGPU computed are numbers",
            reason=not_numbers,
            **common,
        ),
    }


def _read(n: int, wanted: int, where: str, soft: bool) -> Measurement:
    """How many positions were read. Too few on a software adapter are not measured yet: the next run
    reads the others."""
    short = (
        f"only {n} of {wanted} positions were read within the time budget" if n < wanted else None
    )
    if short and soft:
        return Measurement.missing(f"{short}; the next run reads the others", "tokens")
    how = f"positions read of {wanted}"
    return Measurement(value=n, unit="tokens", how=how, where=where, reason=short)


def missing(reason: str, soft: bool = False) -> dict[str, Measurement]:
    """NAMES where there was nothing to compare: that a GPU read no text is known, and must not pass."""
    nothing = Measurement(value=0, unit=NAMES["parity_tokens"], how="positions", reason=reason)
    found = {name: Measurement.missing(reason, unit) for name, unit in NAMES.items()}
    return found if soft else found | {"parity_tokens": nothing}
