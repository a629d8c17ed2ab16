"""Speed in llama-bench's terms: prefill of N tokens, and decode after N tokens are in the cache.

>>> asks = questions(Points(prefill=(128,), depths=(0, 512), new_tokens=64), ids, context=2048)
>>> [(ask["id"], len(ask["input_ids"])) for ask in asks][:2]
[('d0/warm-0', 1), ('d0/0', 1)]

Depth is a real prefill of that many tokens of the domain's text: one question with N tokens gives
both the prefill at N (until the first token) and the decode at depth N (the tokens after it).
Depth 0 is a prompt of a single token. Stop tokens are ignored, so that every run writes as many.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.base.manifest import Measurement
from shared.domain.settings import BenchSettings
from shared.webgpu_bench.result import BrowserResult, Run

WARM_UP = "warm-"
FEWEST = 3
WARM_UPS = 1
REPETITIONS = 3
PROMPT_TOKENS = 128
SOFTWARE_PROMPT_TOKENS = 24
"""A pass over more costs a software adapter minutes (docs/full-size.md)."""
SOFTWARE_NEW_TOKENS = 2
"""One from reading the prompt, one from a pass of its own, which costs it seconds (docs/browser.md)."""
NO_SPEED = "software adapter: it says nothing about a GPU's speed"
POINT = re.compile(r"[dp](\d+)/")


@dataclass(frozen=True)
class Points:
    """What is timed. `prefill`, `depths` and `new_tokens` count tokens."""

    prefill: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    new_tokens: int = 64
    warm_ups: int = WARM_UPS
    repetitions: int = REPETITIONS

    @classmethod
    def of(cls, bench: BenchSettings, *, hardware: bool) -> Points:
        """All points of `[bench]` on a GPU; none on a software adapter, whose speed says nothing."""
        new = new_tokens(bench, hardware=hardware)
        if hardware:
            return cls(tuple(bench.prefill), tuple(bench.depths), new)
        return cls(new_tokens=new, warm_ups=0, repetitions=0)


def new_tokens(bench: BenchSettings, *, hardware: bool) -> int:
    """How many tokens each answer has."""
    return bench.new_tokens if hardware else min(bench.new_tokens, SOFTWARE_NEW_TOKENS)


def prompt_tokens(*, hardware: bool) -> int:
    """How many tokens of a record's chat are asked, its last ones."""
    return PROMPT_TOKENS if hardware else SOFTWARE_PROMPT_TOKENS


def questions(points: Points, ids: Sequence[int], context: int) -> list[dict[str, Any]]:
    """The prompts to ask, the shallow ones first; those past `context` tokens are left out.

    Each has id ("d512/0", "p128/warm-0"), input_ids, max_new_tokens and min_new_tokens.
    """
    wanted = [(f"d{depth}", depth, points.new_tokens) for depth in points.depths]
    wanted += [(f"p{n}", n, 1) for n in points.prefill if n not in points.depths]
    asked = []
    for name, tokens, new in sorted(wanted, key=lambda item: item[1]):
        if tokens + new > context:
            continue
        text = [ids[i % len(ids)] for i in range(max(1, tokens))]
        turns = [f"{WARM_UP}{i}" for i in range(points.warm_ups)]
        turns += [str(i) for i in range(points.repetitions)]
        for turn in turns:
            asked.append(
                {
                    "id": f"{name}/{turn}",
                    "input_ids": text,
                    "max_new_tokens": new,
                    "min_new_tokens": new,
                }
            )
    return asked


@dataclass(frozen=True)
class Figure:
    """tokens/s at one point; `tokens` is the prompt's length or the depth, `samples` one a run."""

    test: str  # "prefill" or "decode"
    tokens: int
    samples: tuple[float, ...]

    @property
    def name(self) -> str:
        """As in llama-bench: pp512, tg@d512."""
        return f"pp{self.tokens}" if self.test == "prefill" else f"tg@d{self.tokens}"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.samples)

    @property
    def sd(self) -> float | None:
        """The samples' standard deviation (n - 1); None for a single one."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else None


def figures(runs: Iterable[Run]) -> list[Figure]:
    """One figure a point that was reached, prefills first, then decodes, by tokens.

    Warm-ups are left out, and runs that were cut short before FEWEST tokens.
    """
    found: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        if WARM_UP in run.id or (
            run.stopped_by != "max_new_tokens" and len(run.decode_ms) < FEWEST
        ):
            continue
        point = POINT.match(run.id)
        depth = int(point[1]) if point else run.prompt_tokens
        if depth and (prefill := run.prefill_tokens_per_second):
            found.setdefault(("prefill", depth), []).append(prefill)
        if run.decode_ms and (decode := run.decode_tokens_per_second):
            found.setdefault(("decode", depth), []).append(decode)
    order = sorted(found, key=lambda key: (key[0] != "prefill", key[1]))
    return [Figure(test, tokens, tuple(found[test, tokens])) for test, tokens in order]


def at(found: Iterable[Figure], test: str, tokens: int) -> Figure | None:
    """The figure of one point, if it was reached."""
    return next((f for f in found if (f.test, f.tokens) == (test, tokens)), None)


def speeds(result: BrowserResult) -> dict[str, Measurement]:
    """The bench's further measurements: the second load, and every point of llama-bench's kind."""
    found = {f"{f.test}_tokens_per_second_at_{f.tokens}": _speed(f) for f in figures(result.runs)}
    fetched = result.load.bytes_fetched
    found["load_bytes"] = Measurement(value=fetched, unit="B", how="fetched by the first load")
    found["warm_load_seconds"] = _warm(result)
    return found


def _speed(figure: Figure) -> Measurement:
    what = {
        "prefill": f"prompt of {figure.tokens} tokens / time to first token",
        "decode": f"tokens after the first, {figure.tokens} in the cache",
    }
    spread = f"; standard deviation {figure.sd:.2g}" if figure.sd is not None else ""
    return Measurement(
        value=figure.mean,
        unit="tokens/s",
        how=what[figure.test] + spread,
        n=len(figure.samples),
        samples=list(figure.samples),
    )


def _warm(result: BrowserResult) -> Measurement:
    if result.warm_load is None:
        why = NO_SPEED if result.software_adapter else "there was no second load"
        return Measurement.missing(result.warm_load_reason or why, "s")
    return Measurement(value=result.warm_load.seconds, unit="s", how="again, from the Cache API")
