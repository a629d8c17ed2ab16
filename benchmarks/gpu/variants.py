"""The kinds of 4-bit weights that wait for a GPU's figures, and how each is quantised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from shared.olive.graph.weights import Quantizer
from shared.olive.quantise.packing import Blocks, pack


@dataclass(frozen=True)
class Format:
    """How weights are stored: values a block (None: the architecture's), whether each block has a zero
    point, and the bits of the language model head with its tied embedding."""

    name: str
    block_size: int | None = None
    zeros: bool = False
    head_bits: int = 4


@dataclass(frozen=True)
class Variant:
    """One column of the comparison: a format, read with MatMulNBits's accuracy level 4 (activations
    rounded to int8 where the kernel can) or 1 (they are not)."""

    name: str
    words: str
    format: Format
    exact: bool = False


PLAIN = Format("plain")
VARIANTS = (
    Variant("released", "as released: symmetric, accuracy level 4", PLAIN),
    Variant("exact", "accuracy level 1: activations are not rounded to int8", PLAIN, exact=True),
    Variant("zeros", "a zero point for each block", Format("zeros", zeros=True)),
    Variant("blocks-64", "blocks of 64", Format("blocks-64", block_size=64)),
    Variant("head-8", "the head, and a tied embedding, in 8 bits", Format("head-8", head_bits=8)),
)
"""The first is what the others are compared with."""

TINY = 1e-7
"""The least scale, near float16's least number: a block of zeros has one, too."""


class FormatQuantizer(Quantizer):
    """Quantises a model's weights to a format; weights without memory (meta) give the shapes."""

    def __init__(self, block_size: int, form: Format, tied: bool) -> None:
        super().__init__(block_size)
        self._format = form
        self._head = "embed_tokens" if tied else "lm_head"
        self._bits = 4

    def __call__(self, stem: str, weight: Callable[[], torch.Tensor]) -> Blocks:
        self._bits = self._format.head_bits if self._head in stem else 4
        return super().__call__(stem, weight)

    def _blocks(self, weight: torch.Tensor) -> Blocks:
        if self._bits == 4 and not self._format.zeros and not weight.is_meta:
            return super()._blocks(weight)
        return rounded(weight, self._bits, self.block_size, zeros=self._format.zeros)


def rounded(weight: torch.Tensor, bits: int, block_size: int, *, zeros: bool) -> Blocks:
    """A weight [N, K] rounded to the nearest code, block by block.

    ValueError where K is not a multiple of the block size. With zero points a block's range is that of
    its values and 0; without, it is symmetric around 0.
    """
    rows, columns = weight.shape
    if columns % block_size:
        raise ValueError(f"row length {columns} is not a multiple of block size {block_size}")
    values = weight.to(torch.float32).view(rows, -1, block_size)
    lowest, highest = values.aminmax(dim=-1)
    lowest, highest = lowest.clamp(max=0.0), highest.clamp(min=0.0)
    largest, middle = 2**bits - 1, 2 ** (bits - 1)
    if zeros:
        scales = ((highest - lowest) / largest).clamp(min=TINY)
        points = (-lowest / scales).round()
    else:
        scales = (torch.maximum(highest, -lowest) / (middle - 1)).clamp(min=TINY)
        points = torch.full_like(scales, middle)
    codes = (values / scales.unsqueeze(-1)).round() + points.unsqueeze(-1)
    packed = pack(codes.clamp(0, largest).to(torch.uint8), bits)
    stored = pack(points.to(torch.uint8), bits) if zeros else None
    return Blocks(bits, block_size, packed, scales, stored)
