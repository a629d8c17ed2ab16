"""GPTQ in blocks: round a weight column by column and let the columns to come make up for it.

Frantar et al., "GPTQ" (arXiv:2210.17323). With x the layer's inputs, the error that counts is
‖(W − Ŵ)x‖², so H = Σ x·xᵀ says how much of a column's error later columns can take back. It is
computed as Babai's nearest plane, which gives the same codes (Chen et al., arXiv:2507.18553): with
H = R·Rᵀ and R upper, column j is rounded to w_j + Σ e_i · R_ij / R_jj over the columns i before it,
where e = w − ŵ. So no inverse of H is needed.

What is added: when a block of columns is reached, its scale (and zero point) is searched, weighing each
column's error by H's diagonal; with the largest value deciding instead, a fifth of GPTQ's gain is lost
(docs/recipes.md). Rows are independent: they are worked on in slices, a thread a core; how they are
cut depends on the weight alone, so that the result is the same with any number of them.

The result is MatMulNBits's: w ≈ (code − zero) · scale, blocks along the row in their own order
(so no act-order), scales that are exact in float16.
"""

from dataclasses import dataclass

import numpy as np
import torch

from shared.olive.quantise.columns import choose_scales, round_columns
from shared.olive.quantise.hessian import factor_, spread
from shared.olive.quantise.packing import Blocks, pack

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Scales tried, as shares of the one that reaches the block's largest value."""

DAMP = 0.01
"""Share of H's mean diagonal added to it, so that it has a factor (the paper's value)."""

ROWS, FEWEST_ROWS, SLICES = 4096, 1024, 16
"""Most and fewest rows in a slice (4096 × 11008 float32 are 180 MB, held twice), and slices between."""

GROUP = 128
"""Columns after which the errors are passed on to all that follow; within, to the group alone."""


@dataclass(frozen=True)
class Format:
    """Bits (4 or 8), values per block, and whether zero is always the middle code."""

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True

    @property
    def middle(self) -> int:
        """The code of zero in a symmetric block."""
        return int(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)


@dataclass(frozen=True)
class Inputs:
    """What a weight's inputs say: H's diagonal [K], and `passed_on` [K, K], of which the half above the
    diagonal is read: R_ij / R_jj, what an error of column i adds to the target of column j."""

    importance: torch.Tensor
    passed_on: torch.Tensor


def inputs_of(hessian: torch.Tensor, damp: float = DAMP) -> Inputs:
    """From H = Σ x·xᵀ [K, K] float32, of which the upper half is read; on the CPU H itself becomes
    `passed_on`. Inputs that were always zero count as much as the damping.
    """
    diagonal = hessian.diagonal().clone()
    extra = damp * float(diagonal.mean().clamp(min=1e-12))
    importance = diagonal.clamp(min=extra)
    hessian.diagonal().add_(extra)
    factor = factor_(hessian)
    own = factor.diagonal().clone()
    spread(lambda rows: rows.div_(own), factor.split(GROUP))
    return Inputs(importance.cpu(), factor.cpu())


def search(
    values: torch.Tensor,
    importance: torch.Tensor,
    form: Format,
    shrink: tuple[float, ...] = SHRINK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scales, zeros) [n] float32 of blocks `values` [block, n], each a column, with the least
    Σ importance · error².

    `importance` [block], not negative. Symmetric: scales of both signs are tried, since there is one
    code more below the middle than above it. Else the zero point moves by one as well.
    """
    steps = (0,) if form.symmetric or len(shrink) == 1 else (-1, 0, 1)
    signs = (1, -1) if form.symmetric else (1,)
    trials = [
        (sign * share, step)
        for share in shrink
        for sign in signs
        for step in steps
        if sign > 0 or share < 1
    ]
    scales, zeros = choose_scales(
        *(values.contiguous().numpy(), importance.numpy(), np.array(trials, np.float32)),
        *(np.float32(form.highest), form.symmetric),
    )
    return torch.from_numpy(scales), torch.from_numpy(zeros)


def gptq(
    weight: torch.Tensor,
    inputs: Inputs | None,
    form: Format,
    shrink: tuple[float, ...] = SHRINK,
) -> Blocks:
    """Quantise `weight` [N, K] for what its inputs were like.

    Without `inputs` every column counts alike and nothing is passed on: round to nearest, with
    the scale search that `shrink` asks for ((1.0,): none). Raises ValueError where K is no multiple
    of the block size or a value is not finite. Computed on the CPU, wherever the weight lies.
    """
    rows, columns = weight.shape
    if columns % form.block_size:
        raise ValueError(f"row length {columns} is not a multiple of {form.block_size}")
    count = columns // form.block_size
    codes = torch.empty(rows, columns, dtype=torch.uint8)
    scales, zeros = torch.empty(rows, count), torch.empty(rows, count)

    def work(start: int) -> None:
        stop = min(rows, start + step)
        own = weight[start:stop].to("cpu", torch.float32).t().contiguous()  # columns lie together
        if not all(torch.isfinite(end) for end in own.aminmax()):
            raise ValueError("the weight holds values that are not finite")
        part = _Slice(own, inputs, form, shrink)
        part.run()
        codes[start:stop], scales[start:stop], zeros[start:stop] = part.result()

    step = min(ROWS, max(FEWEST_ROWS, -(-rows // SLICES)))
    spread(work, range(0, rows, step), on_the_cpu=True)
    return _pack(codes, scales, zeros, form)


class _Slice:
    """Some rows of a weight, transposed to [K, n]. `target`: what each column is rounded to, its own
    value and what makes up for the errors before it."""

    def __init__(
        self,
        own: torch.Tensor,
        inputs: Inputs | None,
        form: Format,
        shrink: tuple[float, ...],
    ) -> None:
        self.own, self.form, self.shrink = own, form, shrink
        columns, rows = own.shape
        self.target = own.clone() if inputs else own
        self.passed_on = inputs.passed_on if inputs else None
        self.importance = inputs.importance if inputs else own.new_ones(columns)
        self.codes = own.new_empty(columns, rows, dtype=torch.uint8)
        self.scales = own.new_empty(columns // form.block_size, rows)
        self.zeros = torch.empty_like(self.scales)

    def run(self) -> None:
        """Group after group: its blocks, and what their errors mean for the columns to come."""
        columns, size = self.own.shape[0], max(GROUP, self.form.block_size)
        for first in range(0, columns, size):
            end = min(columns, first + size)
            self._pass_on(first, end, columns, self._group(first, end))

    def _group(self, begin: int, stop: int) -> torch.Tensor:
        """Scales and codes of a group's blocks, each passing its errors on within the group; those
        errors [group, n]."""
        errors = self.own.new_empty(stop - begin, self.own.shape[1])
        for first in range(begin, stop, self.form.block_size):
            end = first + self.form.block_size
            found = errors[first - begin : end - begin]
            self._block(first, end, found)
            self._pass_on(first, end, stop, found)
        return errors

    def _block(self, first: int, end: int, errors: torch.Tensor) -> None:
        """Scale, zero point and codes of one block; its errors [block, n] are written.

        The scale is chosen for what its columns come to where none of them is rounded: each is then
        moved to its target, and that move is an error to those behind it.
        """
        block, here = first // self.form.block_size, slice(first, end)
        own, target = self.own[here], self.target[here]
        expected, passed_on = target, torch.zeros(end - first, end - first)
        if self.passed_on is not None:
            passed_on = self.passed_on[here, here].contiguous()
            expected = own + torch.linalg.solve_triangular(
                passed_on.t(), target - own, upper=False, unitriangular=True
            )
        scale, zero = search(expected, self.importance[here], self.form, self.shrink)
        self.scales[block], self.zeros[block] = scale, zero
        round_columns(
            *(own.numpy(), target.numpy(), passed_on.numpy(), scale.numpy(), zero.numpy()),
            *(np.float32(self.form.highest), self.codes[here].numpy(), errors.numpy()),
        )

    def _pass_on(self, first: int, end: int, stop: int, errors: torch.Tensor) -> None:
        """What the errors [end − first, n] add to the targets of the columns from `end` to `stop`."""
        if self.passed_on is not None and end < stop:
            self.target[end:stop].addmm_(self.passed_on[first:end, end:stop].t(), errors)

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(codes [n, K], scales [n, blocks], zeros [n, blocks])."""
        return self.codes.t(), self.scales.t(), self.zeros.t()


def _pack(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, form: Format) -> Blocks:
    rows, columns = codes.shape
    packed = pack(codes, form.bits).view(rows, columns // form.block_size, -1)
    points = None if form.symmetric else pack(zeros.to(torch.uint8), form.bits)
    return Blocks(form.bits, form.block_size, packed, scales.to(torch.float16), points)
