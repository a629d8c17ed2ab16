"""Block-wise quantisation to 4 or 8 bits, a few thousand rows at a time.

The format is onnxruntime's MatMulNBits (docs/ContribOperators.md in onnxruntime): a weight
[N, K] becomes packed [N, K/block, block/2] uint8, low nibble first, and scales [N, K/block];
w ≈ (q − 8) · scale. The rule for the scale is MLAS's symmetric one (onnxruntime
core/mlas/lib/q4_dq.cpp): the value of largest magnitude in a block maps to −8.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from shared.base.cpu import cores
from shared.olive.quantise.packing import pack

ROWS_IN_CACHE = 2**19
"""Values per step: about 2 MiB of float32, so that the passes over it stay in the L2 cache."""


def quantize(
    weight: torch.Tensor, block_size: int, bits: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise `weight` [N, K], any float type, to (packed uint8 [N, K/b, b·bits/8], scales f32
    [N, K/b]); `bits` are 4 or 8.

    Raises ValueError where K is not a multiple of the block size, or a weight is not finite.
    """
    rows, columns = weight.shape
    if columns % block_size:
        raise ValueError(f"row length {columns} is not a multiple of block size {block_size}")
    blocks = columns // block_size
    packed = torch.empty(rows, blocks, block_size * bits // 8, dtype=torch.uint8)
    scales = torch.empty(rows, blocks, dtype=torch.float32)

    def step(start: int, stop: int) -> None:
        values = weight[start:stop].to(torch.float32).view(stop - start, blocks, block_size)
        scales[start:stop], packed[start:stop] = _quantize_blocks(values, bits)
        if not torch.isfinite(scales[start:stop]).all():
            raise ValueError("the weight holds values that are not finite")

    for finished in [_threads().submit(step, *span) for span in _row_steps(rows, columns)]:
        finished.result()
    return packed, scales


def dequantize(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Give back float32 [N, K] from `quantize`'s two tensors."""
    low, high = packed & 0xF, packed >> 4
    codes = torch.stack((low, high), dim=-1).flatten(-2).to(torch.float32) - 8.0
    return (codes * scales.unsqueeze(-1)).flatten(1)


def _quantize_blocks(values: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales [n, blocks] and packed codes [n, blocks, block·bits/8] of float32 [n, blocks, block]."""
    middle = 2 ** (bits - 1)
    lowest, highest = values.aminmax(dim=-1)
    extreme = torch.where(highest.abs() > lowest.abs(), highest, lowest)
    scales = extreme / -middle
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
    # floor(x + 8.5), in 4 bits, is MLAS's round-half-up on the shifted, always positive value.
    codes = values.mul(inverse.unsqueeze(-1)).add_(middle + 0.5).floor_()
    return scales, pack(codes.clamp_(0, 2 * middle - 1).to(torch.uint8), bits)


@cache
def _threads() -> ThreadPoolExecutor:
    """A thread a core, each with whole steps of its own and torch's own threads off.

    torch's threads wait for each other after every operation: on a machine with other work to do,
    that is several times slower than threads that meet only at the end of a weight.
    """
    return ThreadPoolExecutor(
        cores(),
        thread_name_prefix="quantize",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


def _row_steps(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, ROWS_IN_CACHE // columns)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)
