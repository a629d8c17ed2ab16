"""What no matrix product does: which scale a block takes, and its columns rounded one after the other.

Compiled by numba for the CPU, some rows of the weight at a time, so that all trials of a block find its
values in the core's first cache; in PyTorch each operation of a trial went through memory, and they
took most of a calibration's time. Arrays are float32 and lie column by column: [values of a block,
rows]. Both free the interpreter's lock, and round by adding and subtracting a number after which
float32 has no fractions: half to even, as `round` does.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Compiled = TypeVar("Compiled", bound=Callable[..., object])

AT_ONCE = 128
"""Rows: 32 of a block's columns are 16 KB."""

WHOLE = np.float32(1.5 * 2**23)
"""|x| < 2²² plus this, less this, is x without its fraction."""


def _compiled(function: Compiled) -> Compiled:
    """Machine code, kept beside this file or in the user's cache, where one of the two can be written.
    A division is not looked at for a divisor of 0, which no scale is."""
    compile_ = partial(njit, nogil=True, error_model="numpy")
    try:
        return cast(Compiled, compile_(cache=True)(function))
    except RuntimeError:
        return cast(Compiled, compile_()(function))


SMALLEST, NORMAL = np.float32(2.0**-24), np.float32(2.0**-14)
"""float16's smallest positive number, the scale of an all-zero block, and its smallest normal one."""
HALF = np.float32(2**13 + 1)
"""By which Veltkamp's splitting cuts float32's 24 significant bits to float16's 11."""


@_compiled
def _as_stored(scale: np.float32) -> np.float32:
    """Rounded to float16, which both graphs hold; never zero."""
    if abs(scale) < NORMAL:
        rounded = scale + WHOLE * SMALLEST - WHOLE * SMALLEST
    else:
        rounded = scale * HALF - (scale * HALF - scale)
    return SMALLEST if rounded == 0 else rounded


@_compiled
def choose_scales(
    values: Floats, importance: Floats, trials: Floats, highest: np.float32, symmetric: bool
) -> tuple[Floats, Floats]:
    """Scales and zero points [rows] with the least Σ importance · error² of those that are tried.

    `values` [block, rows], `importance` [block], a row's codes from 0 to `highest`. `trials` [n, 2]: a
    share of the scale that reaches the row's largest value, negative for the other sign; and by how
    much the zero point moves, where the block is not symmetric. Of equal ones the first. Values are
    multiplied by 1 / scale: a code may be the next one where a value is half way between two.
    """
    size, rows = values.shape
    scales, zeros = np.empty(rows, np.float32), np.empty(rows, np.float32)
    low, high, scale, zero, inverse, total, least = np.empty((7, AT_ONCE), np.float32)
    here = np.empty((size, AT_ONCE), np.float32)  # where they lie, columns are apart
    for start in range(0, rows, AT_ONCE):
        width = min(rows - start, AT_ONCE)
        here[:, :width] = values[:, start : start + width]
        low[:], high[:], least[:] = np.inf, -np.inf, np.inf
        for column in range(size):
            value = here[column]
            for row in range(width):
                low[row], high[row] = min(low[row], value[row]), max(high[row], value[row])
        for trial in range(len(trials)):
            share, step = trials[trial]
            for row in range(width):
                if symmetric:
                    middle = np.float32((highest + 1) / 2)
                    extreme = high[row] if high[row] > -low[row] else low[row]
                    scale[row], zero[row] = -extreme / middle * share, middle
                else:
                    lowest = min(low[row], np.float32(0))
                    span = max(high[row], np.float32(0)) - lowest
                    point = np.rint(-lowest * highest / max(span, SMALLEST)) + step
                    scale[row] = span / highest * share
                    zero[row] = max(np.float32(0), min(highest, point))
                scale[row] = _as_stored(scale[row])
                inverse[row], total[row] = np.float32(1) / scale[row], np.float32(0)
            for column in range(size):
                value, weight = here[column], importance[column]
                for row in range(width):
                    code = value[row] * inverse[row]
                    code = max(-zero[row], min(highest - zero[row], code))
                    error = (code + WHOLE - WHOLE) * scale[row] - value[row]
                    total[row] += weight * error * error
            for row in range(width):
                if total[row] < least[row]:
                    least[row] = total[row]
                    scales[start + row], zeros[start + row] = scale[row], zero[row]
    return scales, zeros


@_compiled
def round_columns(
    weight: Floats,
    target: Floats,
    passed_on: Floats,
    scale: Floats,
    zero: Floats,
    highest: np.float32,
    codes: NDArray[np.uint8],
    errors: Floats,
) -> None:
    """Round a block's columns in turn, each to what those before it in the block have made its target.

    `weight`, `target`, `errors` and `codes` [block, rows], of which the last two are written and the
    target is moved; `passed_on` [block, block]: row i says what an error of column i adds to the target
    of each column behind it. An error is the weight's own, not the target's.
    """
    size, rows = weight.shape
    for start in range(0, rows, AT_ONCE):
        stop = min(rows, start + AT_ONCE)
        divisor, middle = scale[start:stop], zero[start:stop]
        for column in range(size):
            aim, own = target[column, start:stop], weight[column, start:stop]
            code, error = codes[column, start:stop], errors[column, start:stop]
            for row in range(stop - start):
                step = aim[row] / divisor[row]
                step = max(-middle[row], min(highest - middle[row], step))
                step = step + WHOLE - WHOLE
                code[row] = np.uint8(step + middle[row])
                error[row] = own[row] - step * divisor[row]
            for later in range(column + 1, size):
                share, next_aim = passed_on[column, later], target[later, start:stop]
                for row in range(stop - start):
                    next_aim[row] += share * error[row]
