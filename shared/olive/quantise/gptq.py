"""GPTQ in blocks: round a weight column by column and let the columns to come make up for it.

Frantar et al., "GPTQ" (arXiv:2210.17323). With x the layer's inputs, the error that counts is
‖(W − Ŵ)x‖², so H = Σ x·xᵀ says how much of a column's error later columns can take back. What is
added: when a block of columns is reached, its scale (and zero point) is searched, weighing each
column's error by H's diagonal; with the largest value deciding instead, half of GPTQ's gain is lost
(docs/recipes.md). Rows are independent: they are worked on in slices, a thread a core; how they are
cut depends on the weight alone, so that the result is the same with any number of them.

The result is MatMulNBits's: w ≈ (code − zero) · scale, blocks along the row in their own order
(so no act-order), scales that are exact in float16.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from shared.olive.quantise.hessian import inverse_factor_, spread
from shared.olive.quantise.packing import Blocks, pack

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Scales tried, as shares of the one that reaches the block's largest value."""

DAMP = 0.01
"""Share of H's mean diagonal added to it, so that it can be inverted (the paper's value)."""

ROWS, FEWEST_ROWS, SLICES = 4096, 1024, 16
"""Most and fewest rows in a slice (4096 × 11008 float32 are 180 MB), and slices between the two."""

GROUP = 128
"""Columns after which the errors are passed on to all that follow; within, to the group alone."""

SMALLEST = 2.0**-24
"""float16's smallest positive number: a scale of an all-zero block."""


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
    """What a weight's inputs say: H's diagonal [K], and the upper Cholesky factor [K, K] of H⁻¹."""

    importance: torch.Tensor
    feedback: torch.Tensor


def inputs_of(hessian: torch.Tensor, damp: float = DAMP) -> Inputs:
    """From H = Σ x·xᵀ [K, K] float32, of which the upper half is read; H itself becomes the factor.

    Inputs that were always zero count as much as the damping.
    """
    diagonal = hessian.diagonal().clone()
    extra = damp * float(diagonal.mean().clamp(min=1e-12))
    importance = diagonal.clamp(min=extra)
    hessian.diagonal().add_(extra)
    return Inputs(importance, inverse_factor_(hessian))


def search(
    values: torch.Tensor, weights: torch.Tensor, form: Format, shrink: tuple[float, ...] = SHRINK
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scales, zeros) [n] float32 of blocks `values` [n, block] with the least Σ weights · error².

    `weights` [block] or [n, block], not negative. Symmetric: scales of both signs are tried, since
    there is one code more below the middle than above it. Else the zero point moves by one as well.
    """
    best = values.new_full(values.shape[:1], torch.inf)
    scales, zeros = torch.empty_like(best), torch.empty_like(best)
    for scale, zero in _candidates(values, form, shrink):
        scale = _as_stored(scale)
        steps = values / scale[:, None]
        _to_codes(steps, zero[:, None], form)
        error = steps.mul_(scale[:, None]).sub_(values).square_()
        total = error @ weights if weights.ndim == 1 else error.mul_(weights).sum(-1)
        better = total < best
        best = torch.where(better, total, best)
        scales = torch.where(better, scale, scales)
        zeros = torch.where(better, zero, zeros)
    return scales, zeros


def _candidates(
    values: torch.Tensor, form: Format, shrink: tuple[float, ...]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    lowest, highest = values.aminmax(dim=-1)
    if form.symmetric:
        extreme = torch.where(highest.abs() > lowest.abs(), highest, lowest)
        middle = torch.full_like(extreme, form.middle)
        for share in shrink:
            yield extreme / -form.middle * share, middle
            if share < 1:
                yield extreme / form.middle * share, middle
        return
    lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
    for share in shrink:
        scale = (highest - lowest) / form.highest * share
        zero = (-lowest * share / scale.clamp(min=SMALLEST)).round()
        for step in (-1, 0, 1) if len(shrink) > 1 else (0,):
            yield scale, (zero + step).clamp(0, form.highest)


def _to_codes(steps: torch.Tensor, zero: torch.Tensor, form: Format) -> None:
    """Weights over their scales become codes less the zero point, in place."""
    if form.symmetric:  # zero is a whole number: rounding finds the same without it
        steps.round_().clamp_(-form.middle, form.highest - form.middle)
    else:
        steps.add_(zero).round_().clamp_(0, form.highest).sub_(zero)


def _as_stored(scale: torch.Tensor) -> torch.Tensor:
    """Rounded to float16, which both graphs hold; never zero."""
    rounded = scale.to(torch.float16).to(torch.float32)
    return torch.where(rounded == 0, SMALLEST, rounded)


def gptq(
    weight: torch.Tensor,
    inputs: Inputs | None,
    form: Format,
    shrink: tuple[float, ...] = SHRINK,
) -> Blocks:
    """Quantise `weight` [N, K] for what its inputs were like.

    Without `inputs` every column counts alike and nothing is passed on: round to nearest, with
    the scale search that `shrink` asks for ((1.0,): none). Raises ValueError where K is no multiple
    of the block size or a value is not finite. Computed where the weight lies; the result is the CPU's.
    """
    rows, columns = weight.shape
    if columns % form.block_size:
        raise ValueError(f"row length {columns} is not a multiple of {form.block_size}")
    count = columns // form.block_size
    codes = torch.empty(rows, columns, dtype=torch.uint8)
    scales, zeros = torch.empty(rows, count), torch.empty(rows, count)

    def work(start: int) -> None:
        stop = min(rows, start + step)
        rest = weight[start:stop].to(torch.float32).t().contiguous()  # columns lie together
        if not torch.isfinite(rest).all():
            raise ValueError("the weight holds values that are not finite")
        part = _Slice(rest, inputs, form, shrink)
        part.run()
        codes[start:stop], scales[start:stop], zeros[start:stop] = part.result()

    step = min(ROWS, max(FEWEST_ROWS, -(-rows // SLICES)))
    spread(work, range(0, rows, step))
    return _pack(codes, scales, zeros, form)


class _Slice:
    """Some rows of a weight, transposed to [K, n]."""

    def __init__(
        self,
        rest: torch.Tensor,
        inputs: Inputs | None,
        form: Format,
        shrink: tuple[float, ...],
    ) -> None:
        self.rest, self.form, self.shrink = rest, form, shrink
        columns, rows = rest.shape
        self.feedback = inputs.feedback if inputs else None
        self.importance = inputs.importance if inputs else rest.new_ones(columns)
        self.codes = rest.new_empty(columns, rows, dtype=torch.uint8)
        self.scales = rest.new_empty(columns // form.block_size, rows)
        self.zeros = torch.empty_like(self.scales)

    def run(self) -> None:
        """Group after group: its blocks, and what their errors mean for the columns to come."""
        columns, size = self.rest.shape[0], max(GROUP, self.form.block_size)
        for first in range(0, columns, size):
            end = min(columns, first + size)
            errors = self._group(first, end)
            if self.feedback is not None and end < columns:
                self.rest[end:].addmm_(self.feedback[first:end, end:].t(), errors, alpha=-1)

    def _group(self, begin: int, stop: int) -> torch.Tensor:
        """Scales and codes of a group's blocks, each passing its errors on within the group."""
        size, found = self.form.block_size, []
        for first in range(begin, stop, size):
            block, end = first // size, first + size
            scale, zero = search(
                self.rest[first:end].t().contiguous(),
                self.importance[first:end],
                self.form,
                self.shrink,
            )
            self.scales[block], self.zeros[block] = scale, zero
            found.append(self._round(first, end, scale, zero))
            if self.feedback is not None and end < stop:
                passed_on = self.feedback[first:end, end:stop].t()
                self.rest[end:stop].addmm_(passed_on, found[-1], alpha=-1)
        return torch.cat(found)

    def _round(self, first: int, end: int, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        """Codes of one block's columns; their errors [block, n], over the factor's diagonal.

        Few operations a column, each on one column of all rows: what one costs beside its arithmetic
        is most of the time.
        """
        values, form = self.rest[first:end], self.form
        steps, errors = torch.empty_like(values), torch.zeros_like(values)
        factors = [None] * len(values) if self.feedback is None else self._factors(first, end)
        columns = zip(values.unbind(), steps.unbind(), errors.unbind(), factors, strict=True)
        for number, (value, step, error, factor) in enumerate(columns):
            torch.div(value, scale, out=step)
            _to_codes(step, zero, form)
            if factor is not None:
                torch.addcmul(value, step, scale, value=-1, out=error)
                values[number + 1 :].addr_(factor, error, alpha=-1)
        self.codes[first:end] = steps.add_(zero).to(torch.uint8)
        if self.feedback is not None:
            errors /= self.feedback.diagonal()[first:end, None]
        return errors

    def _factors(self, first: int, end: int) -> list[torch.Tensor]:
        """Of each of the block's columns, what its error means for those behind it in the block."""
        assert self.feedback is not None
        within = self.feedback[first:end, first:end]
        within = within / within.diagonal()[:, None]
        return [row[number + 1 :] for number, row in enumerate(within)]

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(codes [n, K], scales [n, blocks], zeros [n, blocks])."""
        return self.codes.t(), self.scales.t(), self.zeros.t()


def _pack(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, form: Format) -> Blocks:
    rows, columns = codes.shape
    packed = pack(codes, form.bits).view(rows, columns // form.block_size, -1)
    points = None if form.symmetric else pack(zeros.to(torch.uint8), form.bits)
    return Blocks(form.bits, form.block_size, packed, scales.to(torch.float16), points)
