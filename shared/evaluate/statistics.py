"""Intervals and paired comparisons, all at 95 %, on top of scipy; every run gives the same figures.

A share of 0/1 samples has Wilson's interval. A mean of graded scores has a bootstrap interval. Two
systems on the same records are compared pair by pair, as their answers to one record go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999
SEED = 20261123
BATCH = 1000

Word = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True)
class Interval:
    """A figure of `n` samples with the ends of its 95 % interval, all in the samples' unit."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Paired:
    """`difference` is ours less the other's, over `n` records; see `paired` for `p` and `word`."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    word: Word


def rate(samples: Sequence[bool]) -> Interval:
    """The share of true samples with Wilson's score interval (Wilson 1927); ValueError if empty."""
    right, n = sum(map(bool, samples)), _count(samples)
    ends = stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return Interval(right / n, float(ends.low), float(ends.high), n)


def mean(samples: Sequence[float]) -> Interval:
    """The mean with its bootstrap interval (BCa, Efron 1987); ValueError if empty.

    It covers the truth less often than it says where samples are few and skewed; by how much is
    measured in tests/test_statistics.py.

    Where all samples are equal, a single one among them, `low` and `high` are NaN: drawing equal
    samples again shows no spread, and an interval of no width would claim a certainty that nobody
    has. 0/1 samples should go to `rate`, which has an answer there too.
    """
    values, n = np.asarray(samples, np.float64), _count(samples)
    low, high = _bootstrap(values) if np.ptp(values) else (math.nan, math.nan)
    return Interval(float(values.mean()), low, high, n)


def paired(ours: Sequence[float], other: Sequence[float]) -> Paired:
    """Compare scores of 0 to 1 on the same records in the same order; ValueError if lengths differ.

    Where all differences are 0 or of one size (those of 0/1 scores always are), only the pairs that
    differ count: `p` is the exact McNemar test's (two-sided binomial on those pairs), and the
    interval is Bonett and Price's adjusted Wald (2012). It keeps a width where no pair differs,
    which a bootstrap would not, and errs on the wide side where records are few. Else `p` is of a
    sign-flip permutation test of the mean difference, and the interval a bootstrap of the records.

    The word is `better` or `worse` where p < 0.05 and 0 lies outside the interval, and else `no
    difference shown`: with no true difference a wrong word comes up in at most 5 % of comparisons.
    """
    if len(ours) != len(other):
        raise ValueError(f"{len(ours)} scores cannot be paired with {len(other)}")
    differences = np.asarray(ours, np.float64) - np.asarray(other, np.float64)
    n, difference = _count(ours), float(differences.mean())
    sizes = np.unique(np.abs(differences[differences != 0]))
    if len(sizes) <= 1:
        size = float(sizes[0]) if len(sizes) and n > 1 else 1.0
        low, high, p = _signs(int((differences > 0).sum()), int((differences < 0).sum()), n)
        low, high = low * size, high * size
    else:
        (low, high), p = _bootstrap(differences), _sign_flips(differences)
    return Paired(difference, low, high, p, n, _word(difference, low, high, p))


def _word(difference: float, low: float, high: float, p: float) -> Word:
    if p >= 1 - LEVEL or low <= 0 <= high:
        return "no difference shown"
    return "better" if difference > 0 else "worse"


def _signs(more: int, less: int, n: int) -> tuple[float, float, float]:
    """Ends of the interval of (more - less) / n, and the exact McNemar p.

    Bonett and Price, J. Educ. Behav. Stat. 37 (2012) 479: with p₁ = (more + 1) / (n + 2) and
    p₂ = (less + 1) / (n + 2), the interval is p₁ - p₂ ± z √((p₁ + p₂ - (p₁ - p₂)²) / (n + 2)).
    """
    p = stats.binomtest(more, more + less).pvalue if more + less else 1.0
    one, two = (more + 1) / (n + 2), (less + 1) / (n + 2)
    spread = math.sqrt((one + two - (one - two) ** 2) / (n + 2))
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * spread
    return max(-1.0, one - two - reach), min(1.0, one - two + reach), float(p)


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The ends of the BCa interval of the mean; percentiles where BCa has none."""
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=LEVEL,
        method="BCa",
        rng=np.random.default_rng(SEED),
    )
    ends = result.confidence_interval
    if math.isnan(ends.low) or math.isnan(ends.high):
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(result.bootstrap_distribution, [tail, 100 - tail])
        return float(low), float(high)
    return float(ends.low), float(ends.high)


def _sign_flips(differences: np.ndarray) -> float:
    """Two-sided p: how often a mean as far from 0 comes up when each sign is a coin's throw."""
    result = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def _count(samples: Sequence[float]) -> int:
    if not len(samples):
        raise ValueError("there are no samples")
    return len(samples)
