"""The exact sampler of the discrete Gaussian, against its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from fedsim.privacy.discrete import MAX_SIGMA, Words, bernoulli_exp, discrete_gaussian, discrete_laplace
from fedsim.privacy.sources import Keyed, RunKey, Seeded


def words(seed: int = 1) -> Words:
    return Words(Seeded(seed, "words"))


def fits(drawn: np.ndarray, weights: np.ndarray, reach: int) -> None:
    """Chi-square of values -reach ... reach, and all beyond as one class, at one in ten thousand."""
    values = np.arange(-len(weights) // 2 + 1, len(weights) // 2 + 1)
    probability = weights / weights.sum()
    inside = np.abs(values) <= reach
    expected = np.append(probability[inside], probability[~inside].sum()) * len(drawn)
    counts = [(drawn == value).sum() for value in values[inside]]
    found = np.append(counts, (np.abs(drawn) > reach).sum())
    assert chisquare(found, expected).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [1, 3, 7])
def test_values_have_the_probabilities_of_the_discrete_gaussian(sigma: int) -> None:
    drawn = discrete_gaussian(sigma, 200_000, Seeded(5, "noise"))
    wide = np.arange(-40 * sigma, 40 * sigma + 1)
    fits(drawn, np.exp(-(wide**2) / (2 * sigma**2)), 3 * sigma)


def test_the_laplace_that_it_is_made_of() -> None:
    drawn = discrete_laplace(4, 300_000, words())
    wide = np.arange(-200, 201)
    fits(drawn, np.exp(-np.abs(wide) / 4), 12)


@pytest.mark.parametrize("numerator", [0, 1, 5, 7, 8, 20, 40])
def test_coins_of_exponential_bias(numerator: int) -> None:
    count, bias = 100_000, np.exp(-numerator / 8)
    heads = bernoulli_exp(np.full(count, numerator), 8, words(numerator)).mean()
    assert abs(heads - bias) <= 4.5 * np.sqrt(bias * (1 - bias) / count)


def test_numbers_below_a_limit_are_uniform() -> None:
    assert np.bincount(words().below(5, 50_000), minlength=5) == pytest.approx(10_000, abs=450)
    large = 2**63 - 25  # nearly half of all words are drawn again
    drawn = words().below(large, 20_000)
    assert int(drawn.max()) < large
    assert float(drawn.mean()) / large == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("sigma", [1024, 2**14, MAX_SIGMA])
def test_moments_at_the_sizes_in_use(sigma: int) -> None:
    drawn = discrete_gaussian(sigma, 100_000, Seeded(7, "noise")) / sigma
    assert drawn.mean() == pytest.approx(0, abs=0.02)
    assert drawn.var() == pytest.approx(1, abs=0.02)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.15)
    assert np.abs(drawn).max() < 7


def test_the_same_source_gives_the_same_noise_and_no_other_does() -> None:
    key = RunKey(bytes(32), "binding")
    one = discrete_gaussian(100, 50, Keyed(key, "release", 0, "bank"))
    assert np.array_equal(one, discrete_gaussian(100, 50, Keyed(key, "release", 0, "bank")))
    assert not np.array_equal(one, discrete_gaussian(100, 50, Keyed(key, "release", 1, "bank")))
    assert discrete_gaussian(5, 0, Seeded(1, "n")).shape == (0,)


@pytest.mark.parametrize("sigma", [0, MAX_SIGMA + 1])
def test_a_sigma_that_would_overflow_is_refused(sigma: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 65536"):
        discrete_gaussian(sigma, 1, Seeded(1, "n"))
