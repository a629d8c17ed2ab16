"""H = Σ x·xᵀ and its factor, in tiles: in place, the same bits on any number of cores.

A 3B model has layers with 11,008 inputs, whose H is 485 MB: it is held once and turned into the factor
where it lies. Every tile is worked on by one thread in one order, so that neither the number of threads
nor what else the machine does changes a bit. Only the upper half of H is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from shared.base.bfloat16 import is_bfloat16_fast
from shared.base.cpu import cores

ROWS = 128
"""Tokens are added in multiples of so many."""

TILE = 512
"""Rows and columns of a tile: 1 MB, which a core's cache holds."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own threads off for the while: on a machine with other work they wait for each other
    after every operation, which makes a small Cholesky factor thirty times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def in_bfloat16() -> Iterator[None]:
    """Products of float32 matrices from their numbers' upper 16 bits, summed up in float32, where the
    processor has instructions for it: several times as fast. For what is then summed up over thousands
    of tokens; a factor, and what is solved with it, stay in float32."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if is_bfloat16_fast() else before
    try:
        yield
    finally:
        settings.fp32_precision = before


_in_turn: ContextVar[bool] = ContextVar("_in_turn", default=False)


@contextmanager
def in_turn() -> Iterator[None]:
    """`spread` calls one after the other: a GPU is a single one, and divides its work by itself."""
    token = _in_turn.set(True)
    try:
        yield
    finally:
        _in_turn.reset(token)


def spread(
    work: Callable[..., Any], *arguments: Sequence[Any], on_the_cpu: bool = False
) -> list[Any]:
    """`map` on all cores, each call on one thread; the results in order. `on_the_cpu`: it computes
    there, wherever else is computed."""
    with one_thread():
        if len(arguments[0]) <= 1 or (_in_turn.get() and not on_the_cpu):
            return list(map(work, *arguments))
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, *arguments))


def add(total: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    """`total` [K, K] with Σ x·xᵀ over `inputs` [..., K] added to its upper half; the same tensor."""
    flat = _rows(inputs)
    if total is None:
        with torch.inference_mode(False):  # it will be changed outside of it as well
            total = flat.new_zeros(flat.shape[1], flat.shape[1])
    into = total

    @torch.inference_mode()
    def row(tile: slice) -> None:
        into[tile, tile.start :].addmm_(flat[:, tile].t(), flat[:, tile.start :])

    spread(row, _tiles(len(total)))
    return total


def _rows(values: torch.Tensor) -> torch.Tensor:
    """[..., K] as [n, K], with rows of zeros up to a multiple of ROWS: they add nothing, and for every
    other shape oneDNN makes its kernels anew, which takes longer than their products."""
    flat = values.reshape(-1, values.shape[-1])
    return nn.functional.pad(flat, (0, 0, 0, -len(flat) % ROWS))


def add_products(
    total: torch.Tensor | None, errors: torch.Tensor, inputs: torch.Tensor
) -> torch.Tensor:
    """`total` [N, K] with Σ e·xᵀ over `errors` [..., N] and `inputs` [..., K] added."""
    left, right = _rows(errors), _rows(inputs)
    if total is None:
        with torch.inference_mode(False):
            total = left.new_zeros(left.shape[1], right.shape[1])
    into = total

    @torch.inference_mode()
    def rows(tile: slice) -> None:
        into[tile].addmm_(left[:, tile].t(), right)

    spread(rows, _tiles(len(total)))
    return total


def factor_(hessian: torch.Tensor) -> torch.Tensor:
    """H [K, K], its upper half, becomes R, upper, with R·Rᵀ = H: Cholesky from the last tile to the
    first. What is below the diagonal is of no meaning. ValueError if H is not positive."""
    tiles = _tiles(len(hessian))
    for k in reversed(range(len(tiles))):
        _factor_tile(hessian, tiles, k)
    return hessian


def divide(products: list[torch.Tensor], hessian: torch.Tensor) -> list[torch.Tensor]:
    """P · H⁻¹ of each P [N, K]; of H the upper half is read, and becomes R."""
    factor_(hessian)

    def rows(some: torch.Tensor) -> torch.Tensor:
        half = torch.linalg.solve_triangular(hessian.t(), some, upper=False, left=False)
        return torch.linalg.solve_triangular(hessian, half, upper=True, left=False)

    return [by_rows(rows, product) for product in products]


def by_rows(work: Callable[[torch.Tensor], torch.Tensor], matrix: torch.Tensor) -> torch.Tensor:
    """`work` on all cores, a tile's rows at a time."""
    return torch.cat(spread(work, matrix.split(TILE)))


def _factor_tile(h: torch.Tensor, tiles: list[slice], k: int) -> None:
    """R's tile k of the diagonal and those above it; their part taken out of what is left of H."""
    here = tiles[k]
    upper = h[here, here].triu()
    whole = upper + upper.triu(1).t()
    factor, wrong = torch.linalg.cholesky_ex(whole.flip(0, 1))
    if int(wrong):
        raise ValueError("the inputs' second moments are not positive: no GPTQ is possible")
    corner = factor.flip(0, 1).contiguous()
    h[here, here] = corner

    def above(tile: slice) -> None:
        h[tile, here] = torch.linalg.solve_triangular(
            corner.t(), h[tile, here], upper=False, left=False
        )

    def rest(tile: slice) -> None:
        across = slice(tile.start, here.start)
        h[tile, across].addmm_(h[tile, here], h[across, here].t(), alpha=-1)

    spread(above, tiles[:k])
    spread(rest, tiles[:k])


def _tiles(size: int) -> list[slice]:
    return [slice(start, min(size, start + TILE)) for start in range(0, size, TILE)]
