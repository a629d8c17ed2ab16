"""Means over tokens and their standard errors, where the tokens of one record go together.

llama.cpp's `--kl-divergence` (tools/perplexity/perplexity.cpp) gives a mean over n tokens the standard
error √((⟨x²⟩ − ⟨x⟩²) / (n − 1)), a perplexity exp(m) the error exp(m)·σ(m), and a ratio of two
perplexities on one text the error of the mean difference of their logarithms, covariance and all. That
takes tokens as independent; but what is hard in a record is hard for many of its tokens. Here the
records are the sample: the error of a ratio of sums over clusters (Cochran, Sampling Techniques, 3rd
ed., section 2.11). Where every record is one token long, that is llama.cpp's formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.evaluate.scoring.statistics import SEED

DRAWS = 2000


def mean(parts: Sequence[np.ndarray]) -> tuple[float, float | None]:
    """Mean over the tokens of all records and its standard error; None from a single record.

    With s_r and n_r a record's sum and its tokens, k records, N tokens and the mean m = Σ s_r / N:
    σ² = k/(k − 1) · Σ (s_r − m·n_r)² / N².
    """
    sums = np.array([float(part.sum()) for part in parts])
    sizes = np.array([len(part) for part in parts])
    total, k = int(sizes.sum()), len(parts)
    value = float(sums.sum()) / total
    if k < 2:
        return value, None
    return value, float(np.sqrt(k / (k - 1) * ((sums - value * sizes) ** 2).sum()) / total)


def exponential(parts: Sequence[np.ndarray]) -> tuple[float, float | None]:
    """exp of the mean, with its error to first order: of −ln p that is the perplexity."""
    value, error = mean(parts)
    return float(np.exp(value)), None if error is None else float(np.exp(value) * error)


def percentile(parts: Sequence[np.ndarray], percent: float) -> tuple[float, float | None]:
    """A percentile over all tokens; its error from drawing whole records again (a bootstrap).

    The draws are the same each time. llama.cpp gives the percentile without an error.
    """
    value = float(np.percentile(np.concatenate(parts), percent))
    if len(parts) < 2:
        return value, None
    rng = np.random.default_rng(SEED)
    draws = rng.integers(len(parts), size=(DRAWS, len(parts)))
    again = [np.percentile(np.concatenate([parts[i] for i in d]), percent) for d in draws]
    return value, float(np.std(again, ddof=1))
