"""Weights packed to 4 and 8 bits in blocks: how the bytes lie, in MatMulNBits's own layout."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """How a weight [rows, columns] lies in memory."""

    bits: int
    block_size: int
    has_zeros: bool
    rows: int
    columns: int


@dataclass(frozen=True)
class Blocks:
    """A weight [N, K] in blocks along K: w ≈ (code − zero) · scale.

    `packed` [N, K/block, block·bits/8] uint8, lowest bits first; `scales` [N, K/block] float;
    `zeros` [N, ⌈K/block·bits/8⌉] uint8, packed likewise, or None for 2^(bits−1) throughout.
    """

    bits: int
    block_size: int
    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None

    @property
    def layout(self) -> Layout:
        """What the graph's node must say of it."""
        rows, count, _ = self.packed.shape
        columns = count * self.block_size
        return Layout(self.bits, self.block_size, self.zeros is not None, rows, columns)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [..., k] uint8 → [..., ⌈k·bits/8⌉], lowest bits first."""
    if bits == 8:
        return codes.contiguous()
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack(packed: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """The opposite of `pack`."""
    if bits == 8:
        return packed[:, :columns]
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(1)[:, :columns]


def dequantized(blocks: Blocks) -> torch.Tensor:
    """float32 [N, K] of quantised blocks."""
    layout = blocks.layout
    codes = unpack(blocks.packed.flatten(1), blocks.bits, layout.columns).to(torch.float32)
    codes = codes.view(layout.rows, -1, blocks.block_size)
    count = codes.shape[1]
    if blocks.zeros is None:
        codes -= 2 ** (blocks.bits - 1)
    else:
        codes -= unpack(blocks.zeros, blocks.bits, count).to(torch.float32).unsqueeze(-1)
    return codes.mul_(blocks.scales.to(torch.float32).unsqueeze(-1)).flatten(1)
