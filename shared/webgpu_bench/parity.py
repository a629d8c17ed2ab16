"""Does WebGPU compute what the CPU computes? Teacher-forced on held-out domain text, same file.

The browser reads windows of whole chats (record and gold answer) and sends back, for every position,
its `TOP_K` largest logits and the log-sum-exp of all; onnxruntime's CPU reads the same ids with the
int8 rounding of activations switched off. Reported are top-1 agreement and KL(CPU ‖ WebGPU), taken
over TOP_K + 1 outcomes: the browser's TOP_K likeliest tokens and all others as one. Merging outcomes
can only lower a KL divergence (the log-sum inequality; Cover and Thomas, Elements of Information
Theory, theorem 2.7.1), so it is a lower bound; the probability the CPU gives to the merged ones is
reported beside it.
"""

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shared.base.manifest import Measurement
from shared.domain.records import Record
from shared.webgpu_bench.result import Parity, ParityPiece

TOP_K = 64
NAMES = {
    "parity_agreement": "share",
    "parity_kl_divergence": "nats/token",
    "parity_tokens": "tokens",
    "parity_finite": "share",
}
TINY = 1e-12
"""The least probability a merged outcome is given: what float32's log-sum-exp cannot tell from 0."""


@dataclass(frozen=True)
class Reading:
    """How the texts are fed: `tokens` positions in all, in rows of `longest`, `batch` rows at once,
    `piece` tokens a pass.

    On a GPU one row after another, as a page would. On a software adapter a pass costs seconds, so
    several rows share one; it must stay under 32 tokens (docs/how-it-works.md), and with a cache
    onnxruntime-web's attention takes several rows only token by token. So its rows are short: one
    pass without a cache, then one token with it.
    """

    tokens: int
    batch: int
    piece: int
    longest: int


SOFTWARE_BATCH, SOFTWARE_PIECE, SOFTWARE_LONGEST = 8, 31, 32
HARDWARE_BATCH, HARDWARE_PIECE, HARDWARE_LONGEST = 1, 128, 512


def reading(tokens: int, *, hardware: bool) -> Reading:
    """The way to feed `tokens` positions to a GPU or to a software adapter."""
    if hardware:
        return Reading(tokens, HARDWARE_BATCH, HARDWARE_PIECE, HARDWARE_LONGEST)
    return Reading(tokens, SOFTWARE_BATCH, SOFTWARE_PIECE, SOFTWARE_LONGEST)


class _Chat(Protocol):
    tokenizer: Any

    def prompt_ids(self, system: str | None, user: str) -> list[int]: ...


def held_out_rows(
    chat: _Chat, prompt: str, records: tuple[Record, ...], how: Reading
) -> list[list[int]]:
    """Windows of the held-out chats, all of one length and no two alike, spread over all of them.

    The opening that all chats share is left out, the rest joined in the records' order and cut into
    consecutive windows of `how.longest` tokens, as llama-perplexity does; as many as `how.tokens`
    positions need are taken, at even distances. Fewer where there is less text.
    """
    chats = list(dict.fromkeys(tuple(_whole(chat, prompt, record)) for record in records))
    shared = _shared(chats)
    stream = [token for ids in chats for token in ids[shared:]]
    length = min(how.longest, len(stream))
    cuts = range(0, len(stream) - length + 1, max(length, 1))
    windows = list(dict.fromkeys(tuple(stream[at : at + length]) for at in cuts))
    count = min(len(windows), math.ceil(how.tokens / max(length, 1)))
    return [list(windows[i * len(windows) // count]) for i in range(count)]


def _shared(chats: list[tuple[int, ...]]) -> int:
    """How many tokens all chats begin with; 0 where there is one chat only."""
    if len(chats) < 2:
        return 0
    pairs = zip(min(chats), max(chats), strict=False)
    return next(i for i, (a, b) in enumerate([*pairs, (0, 1)]) if a != b)


def _whole(chat: _Chat, prompt: str, record: Record) -> list[int]:
    gold = json.dumps(record.gold, ensure_ascii=False)
    answer = chat.tokenizer.encode(gold, add_special_tokens=False)
    return [*chat.prompt_ids(prompt, record.input), *answer]


def request(rows: list[list[int]], how: Reading) -> dict[str, Any]:
    """What the page is asked (page/parity.js)."""
    return {"rows": rows, "batch": how.batch, "piece": how.piece, "top_k": TOP_K}


class Forced(Protocol):
    """shared.evaluate.models.onnx.ForcedModel: logits [len(ids), vocab] after each of `ids`."""

    def reset(self) -> None: ...
    def feed(self, ids: list[int]) -> np.ndarray: ...


@dataclass(frozen=True)
class Compared:
    """Per position: KL(CPU ‖ WebGPU) in nats, same top-1 as 0/1, the CPU's mass on merged tokens."""

    divergence: np.ndarray
    agreement: np.ndarray
    merged: np.ndarray


def compare(cpu: Forced, rows: list[list[int]], parity: Parity) -> Compared:
    """Read on the CPU what the browser has read, and hold every position of both side by side."""
    found = []
    for number, row in enumerate(rows):
        cpu.reset()
        for start, theirs in _of_row(parity.pieces, number):
            end = start + len(theirs.log_sums)
            found.append(compare_position(cpu.feed(row[start:end]), theirs))
    columns = zip(*found, strict=True) if found else ([], [], [])
    return Compared(*(np.concatenate(list(c)) if c else np.zeros(0) for c in columns))


@dataclass(frozen=True)
class Summary:
    """The browser's side of some positions: ids and logits [tokens, k], log_sums [tokens]."""

    ids: np.ndarray
    logits: np.ndarray
    log_sums: np.ndarray


def _of_row(pieces: list[ParityPiece], number: int) -> Iterator[tuple[int, Summary]]:
    for piece in pieces:
        if piece.row <= number < piece.row + piece.rows:
            log_sums = _array(piece.log_sums, np.float32, (piece.rows, piece.tokens))
            shape = (piece.rows, piece.tokens, -1)
            ids = _array(piece.ids, np.int32, shape)
            logits = _array(piece.logits, np.float32, shape)
            at = number - piece.row
            yield piece.start, Summary(ids[at], logits[at], log_sums[at].astype(np.float64))


def _array(text: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def compare_position(cpu: np.ndarray, theirs: Summary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(KL, same top-1, merged mass) per position from the CPU's logits [tokens, vocab].

    A position whose WebGPU logits are not finite has an infinite divergence and no agreement.
    """
    logits = cpu.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    log_sum = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    finite = np.isfinite(theirs.log_sums) & np.isfinite(theirs.logits).all(axis=-1)
    broken = ~finite | (theirs.ids < 0).any(axis=-1)
    ids = np.maximum(theirs.ids, 0)
    log_p = np.take_along_axis(logits, ids, axis=-1) - log_sum
    log_q = theirs.logits.astype(np.float64) - theirs.log_sums[:, None]
    p_rest = np.clip(1 - np.exp(log_p).sum(axis=-1), TINY, 1)
    with np.errstate(invalid="ignore"):
        q_rest = np.clip(1 - np.exp(log_q).sum(axis=-1), TINY, 1)
        kept = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    divergence = np.maximum(kept + p_rest * np.log(p_rest / q_rest), 0)
    agreement = (logits.argmax(axis=-1) == theirs.ids[:, 0]) & ~broken
    return np.where(broken, np.inf, divergence), agreement.astype(np.float64), p_rest


def measurements(compared: Compared, wanted: int, where: str, soft: bool) -> dict[str, Measurement]:
    """NAMES, with standard errors over positions and Wilson's interval for the agreement."""
    from statsmodels.stats.proportion import proportion_confint

    n = len(compared.agreement)
    if not n:
        return missing("the time budget ended before any text was read")
    share, mean = float(compared.agreement.mean()), float(compared.divergence.mean())
    low, high = proportion_confint(compared.agreement.sum(), n, method="wilson")
    how = "teacher-forced on held-out chats, WebGPU against onnxruntime's CPU on the same file"
    common: dict[str, Any] = {"where": where, "n": n, "software_adapter": soft}
    finite, numbers = math.isfinite(mean), float(np.isfinite(compared.divergence).mean())
    short = f"only {n} of {wanted} positions were read within the time budget"
    return {
        "parity_agreement": Measurement(
            value=share,
            unit="share",
            how=f"same likeliest token; {how}",
            standard_error=math.sqrt(share * (1 - share) / n),
            low=float(low),
            high=float(high),
            **common,
        ),
        "parity_kl_divergence": Measurement(
            value=mean if finite else None,
            unit="nats/token",
            how=f"over the browser's {TOP_K} likeliest tokens and all others as one (a lower bound; "
            f"those hold {compared.merged.mean():.2g} on average); {how}",
            standard_error=_standard_error(compared.divergence) if finite else None,
            reason=None if finite else "WebGPU computed logits that are not numbers",
            **common,
        ),
        "parity_tokens": Measurement(
            value=n,
            unit="tokens",
            how=f"positions read of {wanted}",
            where=where,
            reason=short if n < wanted else None,
        ),
        "parity_finite": Measurement(
            value=numbers,
            unit="share",
            how="positions at which all that WebGPU computed are numbers",
            reason=None if finite else "WebGPU computed logits that are not numbers",
            **common,
        ),
    }


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def missing(reason: str) -> dict[str, Measurement]:
    """NAMES where there was nothing to compare: that no text was read is known, and must not pass."""
    nothing = Measurement(value=0, unit=NAMES["parity_tokens"], how="positions", reason=reason)
    found = {name: Measurement.missing(reason, unit) for name, unit in NAMES.items()}
    return found | {"parity_tokens": nothing}
