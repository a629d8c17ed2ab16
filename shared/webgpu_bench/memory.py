"""The longest context whose WebGPU buffers stay within a budget; computed, not tried.

Bytes wanted at a context of n tokens = weights + overhead + 2 · cache(n): while a token is written,
onnxruntime-web holds the past and the present cache at once, unless the page's own loop runs.
`overhead` is what the browser's run, by that loop, was seen to ask for beyond weights and cache.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shared.base.manifest import Measurement
from shared.base.parsing import validate
from shared.domain.domain import Domain
from shared.domain.settings import BenchSettings
from shared.webgpu_bench.result import BrowserResult

if TYPE_CHECKING:  # it imports onnx, which an unchanged release has no need of
    from shared.webgpu_bench.footprint import Footprint

CACHE_COPIES = 2
"""Past and present, as Transformers.js's own `generate` holds them; the page's cache is one."""
BLOCK = 256
"""The page's cache has room for a multiple of so many tokens (page/cache.js)."""


def with_budget(domain: Domain, gpu_budget: str | None) -> Domain:
    """The domain with another GPU budget; UserError where that is not a size."""
    if gpu_budget is None:
        return domain
    asked = domain.chain.bench.model_dump() | {"gpu_budget": gpu_budget}
    bench = validate(asked, BenchSettings, "--gpu-budget")
    return replace(domain, chain=domain.chain.model_copy(update={"bench": bench}))


def longest_context(footprint: Footprint, budget: int, overhead: int) -> int:
    """Tokens of context within `budget` bytes; 0 where the weights alone do not fit."""
    left = budget - footprint.weight_bytes - overhead
    return max(0, left // (CACHE_COPIES * footprint.cache_bytes_per_token))


def measured_overhead(footprint: Footprint, peak: int, context: int) -> int:
    """What a run of `context` tokens in the page's cache asked for beyond weights and cache; never less
    than nothing."""
    room = BLOCK * -(-context // BLOCK)
    known = footprint.weight_bytes + room * footprint.cache_bytes_per_token
    return max(0, peak - known)


def context_measurements(graph: Path, budget: int, result: BrowserResult) -> dict[str, Measurement]:
    """`largest_context`, its overhead taken from the run's own peak of requested buffer bytes."""
    from shared.webgpu_bench.footprint import read_footprint

    footprint = read_footprint(graph)
    context = max((run.prompt_tokens + len(run.output_ids) for run in result.runs), default=0)
    overhead = measured_overhead(footprint, result.gpu.peak_requested_bytes, context)
    return {
        "largest_context": Measurement(
            value=min(longest_context(footprint, budget, overhead), footprint.made_for or 2**31),
            unit="tokens",
            how=f"computed: {budget / 1e9:g} GB less weights and {overhead / 1e6:.1f} MB of measured "
            f"overhead, at {CACHE_COPIES} × {footprint.cache_bytes_per_token / 1e3:.1f} kB of cache "
            f"a token; the model was made for {footprint.made_for or 'an unknown number'}",
            where=f"{footprint.dtype}, peak of requested buffer bytes",
            software_adapter=result.software_adapter,
        )
    }
