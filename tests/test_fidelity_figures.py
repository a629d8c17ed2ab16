"""What truncating a distribution costs, and how sure a mean over tokens is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from shared.evaluate.distribution import KEEP_AT_MOST, divergence, joined, truncate
from shared.evaluate.scoring.statistics import (
    clustered_exponential,
    clustered_mean,
    clustered_percentile,
)


def logits(rows: int = 40, vocabulary: int = 500, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocabulary)).astype(np.float32)


def torchs(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p‖q) per row by PyTorch, in float64."""
    p64, q64 = (torch.tensor(x, dtype=torch.float64).log_softmax(-1) for x in (p, q))
    each = torch.nn.functional.kl_div(q64, p64, reduction="none", log_target=True)
    return np.asarray(each.sum(-1).numpy())


NEXT = np.zeros(40, np.int64)


class TestTheDivergence:
    def test_is_torchs_where_nothing_is_left_out(self) -> None:
        p, q = logits(), logits(seed=1)
        found = divergence(truncate(p, NEXT, tail=0), q, NEXT)
        assert np.allclose(found.divergence, torchs(p, q), atol=1e-5)
        assert not found.hidden.any()

    @pytest.mark.parametrize("tail", [0.3, 1e-2, 1e-4])
    def test_is_never_too_much_and_too_little_by_no_more_than_it_says(self, tail: float) -> None:
        p, q = logits(), logits(seed=1)
        found = divergence(truncate(p, NEXT, tail), q, NEXT)
        short = torchs(p, q) - found.divergence
        assert (short > -1e-5).all() and (short <= found.hidden + 1e-5).all()
        assert short.max() > 1e-5, "nothing was cut, so nothing was tested"

    def test_is_scipys_relative_entropy(self) -> None:
        p, q = (scipy.special.softmax(logits(seed=s).astype(np.float64), axis=-1) for s in (0, 1))
        found = divergence(truncate(logits(), NEXT, tail=0), logits(seed=1), NEXT)
        assert np.allclose(found.divergence, scipy.stats.entropy(p, q, axis=-1), atol=1e-5)

    def test_is_still_a_lower_bound_where_a_flat_distribution_is_cut_short(self) -> None:
        p, q = logits() / 9, logits(seed=1) / 9
        short_of = divergence(truncate(p, NEXT, most=50), q, NEXT)
        short = torchs(p, q) - short_of.divergence
        assert (short > -1e-5).all() and (short <= short_of.hidden + 1e-5).all()

    def test_is_zero_for_the_same_logits_up_to_a_shift(self) -> None:
        found = divergence(truncate(logits(), NEXT), logits() + 7, NEXT)
        assert np.allclose(found.divergence, 0, atol=1e-5) and found.same.all()

    def test_stays_finite_where_a_model_is_certain(self) -> None:
        p = np.full((2, 9), -1e4, np.float32)
        p[:, 3] = 0
        found = divergence(truncate(p, NEXT[:2]), logits(2, 9), NEXT[:2])
        assert np.isfinite(found.divergence).all() and np.isfinite(found.hidden).all()


class TestATruncatedDistribution:
    def test_keeps_all_but_the_tail(self) -> None:
        found = truncate(logits(), NEXT, tail=1e-2)
        for row, mass in zip(found.rows(), found.mass, strict=True):
            assert mass <= 1e-2
            assert np.exp(found.log_p[row]).sum() + mass == pytest.approx(1, abs=1e-5)

    def test_has_a_size_that_no_vocabulary_exceeds(self) -> None:
        flat = np.zeros((3, 200_000), np.float32)
        found = truncate(flat, NEXT[:3])
        assert (np.diff([0, *found.ends]) == KEEP_AT_MOST).all()
        assert np.allclose(found.mass, 1 - KEEP_AT_MOST / 200_000)
        assert found.tokens.nbytes + found.log_p.nbytes == 3 * 8 * KEEP_AT_MOST

    def test_keeps_the_likeliest(self) -> None:
        found = truncate(logits(), NEXT, tail=0, most=7)
        for row, p in zip(found.rows(), logits(), strict=True):
            assert found.tokens[row].tolist() == np.argsort(-p)[:7].tolist()

    def test_is_the_same_in_pieces_as_at_once(self) -> None:
        whole = truncate(logits(), NEXT)
        pieces = joined([truncate(logits()[a : a + 7], NEXT[a : a + 7]) for a in range(0, 40, 7)])
        for name, value in vars(whole).items():
            assert np.array_equal(value, getattr(pieces, name)), name

    def test_knows_what_follows_even_where_that_was_cut(self) -> None:
        p = logits()
        unlikely = p.argmin(-1)
        expected = -torch.tensor(p, dtype=torch.float64).log_softmax(-1).numpy()
        assert np.allclose(truncate(p, unlikely).nll, expected[np.arange(40), unlikely])


class TestTheStandardError:
    def test_is_llama_cpps_where_each_record_is_one_token(self) -> None:
        x = np.random.default_rng(2).exponential(size=300)
        theirs = np.sqrt(((x**2).mean() - x.mean() ** 2) / (len(x) - 1))
        assert clustered_mean([x[i : i + 1] for i in range(300)])[1] == pytest.approx(theirs)

    def test_is_scipys_sem_of_the_records_means_where_all_are_as_long(self) -> None:
        x = np.random.default_rng(7).exponential(size=(40, 25))
        value, error = clustered_mean(list(x))
        assert value == pytest.approx(x.mean())
        assert error == pytest.approx(scipy.stats.sem(x.mean(axis=1)))

    def test_is_scipys_bootstrap_over_records_of_uneven_length(self) -> None:
        """scipy draws records; ours is a formula. They meet where there are many records."""
        rng = np.random.default_rng(8)
        parts = [rng.exponential(rng.uniform(0.5, 2), rng.integers(5, 60)) for _ in range(200)]

        def total(which: np.ndarray, axis: int = -1) -> np.ndarray:
            sums, sizes = np.array([p.sum() for p in parts]), np.array([len(p) for p in parts])
            return np.exp(sums[which].sum(axis) / sizes[which].sum(axis))

        theirs = scipy.stats.bootstrap((np.arange(200),), total, rng=1, n_resamples=4000)
        value, error = clustered_exponential(parts)
        assert value == pytest.approx(float(total(np.arange(200))))
        assert error == pytest.approx(theirs.standard_error, rel=0.05)

    def test_of_a_percentile_is_that_of_simulated_samples(self) -> None:
        """The error against the spread of the percentile over 300 samples that were really drawn."""
        rng = np.random.default_rng(9)

        def sample() -> list[np.ndarray]:
            return [rng.exponential(rng.uniform(0.5, 2), 30) for _ in range(60)]

        drawn = [float(np.percentile(np.concatenate(sample()), 99)) for _ in range(300)]
        errors = [clustered_percentile(sample(), 99)[1] or 0 for _ in range(10)]
        assert np.mean(errors) == pytest.approx(np.std(drawn), rel=0.25)

    def test_grows_where_the_tokens_of_a_record_go_together(self) -> None:
        rng = np.random.default_rng(3)
        alike = [np.full(20, rng.normal()) for _ in range(50)]
        mixed = [rng.normal(size=20) for _ in range(50)]
        assert clustered_mean(alike)[1] > 3 * clustered_mean(mixed)[1]  # type: ignore[operator]

    def test_covers_the_truth_about_as_often_as_it_says(self) -> None:
        """Records of uneven length with a level of their own: 95 % intervals, 600 times."""
        rng, hits = np.random.default_rng(4), 0
        for _ in range(600):
            parts = [rng.normal(rng.normal(), 1, rng.integers(5, 40)) for _ in range(60)]
            value, error = clustered_mean(parts)
            assert error is not None
            hits += abs(value) < 2.0 * error
        assert 0.92 < hits / 600 < 0.975

    def test_of_a_ratio_of_perplexities_pairs_the_tokens(self) -> None:
        """Two models that find the same tokens hard differ by less than each one varies."""
        rng = np.random.default_rng(5)
        parent = [rng.normal(3, 1, 20) for _ in range(30)]
        ours = [p + 0.1 for p in parent]
        ratio, error = clustered_exponential([a - b for a, b in zip(ours, parent, strict=True)])
        assert ratio == pytest.approx(np.exp(0.1)) and error == pytest.approx(0, abs=1e-9)
        assert clustered_exponential(ours)[1] > 0.1  # type: ignore[operator]

    def test_is_not_claimed_from_a_single_record(self) -> None:
        assert clustered_mean([np.ones(9)])[1] is None
        assert clustered_percentile([np.ones(9)], 99)[1] is None

    def test_of_a_percentile_is_the_same_each_time(self) -> None:
        parts = [np.random.default_rng(i).exponential(size=30) for i in range(9)]
        assert clustered_percentile(parts, 99) == clustered_percentile(parts, 99)
