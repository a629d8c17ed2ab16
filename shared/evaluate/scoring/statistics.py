"""Intervals and paired comparisons at 95 %, and clustered standard errors, on top of scipy.

A share of 0/1 samples has Wilson's interval. A mean of graded scores has a bootstrap interval. Two
systems on the same records are compared pair by pair, as their answers to one record go together.
A mean over tokens has the standard error of its records. Every run gives the same figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

LEVEL = 0.95
RESAMPLES = 9999
DRAWS = 2000
SEED = 20261123
BATCH = 1000
DIGITS = 12
"""Differences are rounded to so many: 0.3 - 0.2 and 0.1 are one size."""

Word = Literal["better", "worse", "no difference shown"]
NO_DIFFERENCE: Word = "no difference shown"


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
    ends = scipy.stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
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

    0/1 scores: `p` is the exact McNemar test's (two-sided binomial on the pairs that differ), and
    the interval is Bonett and Price's adjusted Wald (2012), which keeps a width where no pair
    differs. Graded scores: `p` is of a sign-flip permutation test of the mean difference, and the
    interval Hesterberg's expanded percentile bootstrap of the records, each end of it held between
    those that 0/1 scores would have if every difference were rounded down to -1, 0 or 1, and if it
    were rounded up. So equal answers never show more than equal 0/1 scores would, and wherever one
    difference is smaller, neither end of the interval is greater: worse data has no better verdict.

    The word is `better` or `worse` where p < 0.05 and 0 lies outside the interval, and else `no
    difference shown`: with no true difference a wrong word comes up in at most 5 % of comparisons.
    """
    if len(ours) != len(other):
        raise ValueError(f"{len(ours)} scores cannot be paired with {len(other)}")
    n, exact = _count(ours), np.asarray(ours, np.float64) - np.asarray(other, np.float64)
    differences = np.round(exact, DIGITS)
    least, most = _zero_one(np.floor(differences)), _zero_one(np.ceil(differences))
    if least == most:
        (low, high), p = least, _mcnemar(differences)
    else:
        low, high = np.clip(_percentiles(differences), least, most)
        p = _sign_flips(differences)
    difference = float(exact.mean())
    low, high = float(low), float(high)
    return Paired(difference, low, high, p, n, _word(difference, low, high, p))


def _word(difference: float, low: float, high: float, p: float) -> Word:
    if p >= 1 - LEVEL or low <= 0 <= high:
        return NO_DIFFERENCE
    return "better" if difference > 0 else "worse"


def _mcnemar(signs: np.ndarray) -> float:
    """The exact test's p for differences of -1, 0 and 1."""
    more, less = int((signs > 0).sum()), int((signs < 0).sum())
    return float(scipy.stats.binomtest(more, more + less).pvalue) if more + less else 1.0


def _zero_one(signs: np.ndarray) -> tuple[float, float]:
    """Ends of the interval of the mean of differences of -1, 0 and 1.

    Bonett and Price, J. Educ. Behav. Stat. 37 (2012) 479: with p₁ = (more + 1) / (n + 2) and
    p₂ = (less + 1) / (n + 2), the interval is p₁ - p₂ ± z √((p₁ + p₂ - (p₁ - p₂)²) / (n + 2)).
    Where no pair differs that is ± z √2 / (n + 2): much like the rule of three.
    """
    n = len(signs)
    one, two = ((int((signs == sign).sum()) + 1) / (n + 2) for sign in (1, -1))
    spread = math.sqrt((one + two - (one - two) ** 2) / (n + 2))
    reach = float(scipy.stats.norm.ppf((1 + LEVEL) / 2)) * spread
    return max(-1.0, one - two - reach), min(1.0, one - two + reach)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """The ends of the expanded percentile bootstrap interval of the mean.

    Hesterberg, The American Statistician 69 (2015) 371, section 5.3: percentiles so far out that
    the interval is as wide as Student's, α' / 2 = Φ(-√(n / (n - 1)) t). The same records are drawn
    whatever their values are, so a smaller value makes no drawn mean greater.
    """
    n, rng = len(values), np.random.default_rng(SEED)
    if n == 1:
        return float(values[0]), float(values[0])
    batches = [min(BATCH, RESAMPLES - start) for start in range(0, RESAMPLES, BATCH)]
    means = [values[rng.integers(0, n, (size, n))].mean(axis=1) for size in batches]
    reach = math.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1)
    tail = 100 * float(scipy.stats.norm.cdf(-reach))
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The ends of the BCa interval of the mean; percentiles where BCa has none."""
    result = scipy.stats.bootstrap(
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
    if len(differences) == 1:
        return 1.0
    result = scipy.stats.permutation_test(
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


def clustered_mean(clusters: Sequence[np.ndarray]) -> tuple[float, float | None]:
    """Mean over all tokens with its clustered standard error; None from a single cluster (record).

    With s_r and n_r a record's sum and its tokens, k records, N tokens and the mean m = Σ s_r / N:
    σ² = k/(k − 1) · Σ (s_r − m·n_r)² / N² (Cochran, Sampling Techniques, 3rd ed., section 2.11).
    Tokens of a record go together: what is hard in it is hard for many of them. Where every record
    is one token long, that is the error llama.cpp's `--kl-divergence` gives (tools/perplexity).
    """
    sums = np.array([float(cluster.sum()) for cluster in clusters])
    sizes = np.array([len(cluster) for cluster in clusters])
    total, k = int(sizes.sum()), len(clusters)
    value = float(sums.sum()) / total
    if k < 2:
        return value, None
    return value, float(np.sqrt(k / (k - 1) * ((sums - value * sizes) ** 2).sum()) / total)


def clustered_exponential(clusters: Sequence[np.ndarray]) -> tuple[float, float | None]:
    """exp of the mean, with its error to first order: of −ln p that is the perplexity."""
    value, error = clustered_mean(clusters)
    return float(np.exp(value)), None if error is None else float(np.exp(value) * error)


def clustered_percentile(
    clusters: Sequence[np.ndarray], percent: float
) -> tuple[float, float | None]:
    """A percentile over all tokens; its error from drawing whole records again (a bootstrap).

    The draws are the same each time. llama.cpp gives the percentile without an error.
    """
    value = float(np.percentile(np.concatenate(clusters), percent))
    if len(clusters) < 2:
        return value, None
    rng = np.random.default_rng(SEED)
    draws = rng.integers(len(clusters), size=(DRAWS, len(clusters)))
    again = [np.percentile(np.concatenate([clusters[i] for i in d]), percent) for d in draws]
    return value, float(np.std(again, ddof=1))
