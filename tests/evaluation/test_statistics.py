"""Comparisons against enumeration, independent implementations, and simulation with known truth."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mdm_lightning.evaluation.statistics import (
    bootstrap_interval,
    detectable_difference,
    empirical_bernstein,
    holm,
    instances_needed,
    normal_interval,
    normal_test,
    pareto_front,
    rank_correlation,
    sign_flip_test,
    standard_error,
)


def direct_holm(p: list[float]) -> list[float]:
    """Holm's procedure, stated as it is usually stated: step down until one is not rejected."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected = [0.0] * len(p)
    for step, i in enumerate(order):
        corrected[i] = max((len(p) - earlier) * p[order[earlier]] for earlier in range(step + 1))
    return [min(value, 1.0) for value in corrected]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_direct_procedure(p):
    np.testing.assert_allclose(holm(np.array(p)), direct_holm(p), rtol=1e-15)


def test_holm_of_nothing():
    assert holm(np.array([])).shape == (0,)


def test_holm_controls_the_family_wise_error():
    """2,000 families of 10 comparisons in which there is nothing to find, dependent through a common part. The count of
    families with a false discovery exceeds the bound below with probability under 1e-4 if the rate is at most 5 %;
    without correction it would be about a quarter."""
    generator = np.random.default_rng(0)
    common = generator.normal(size=(2000, 1))
    z = 0.5 * common + 0.75**0.5 * generator.normal(size=(2000, 10))
    p = 2 * stats.norm.sf(np.abs(z))
    false = sum((holm(family) < 0.05).any() for family in p)
    bound = stats.binom.ppf(1 - 1e-4, 2000, 0.05)
    assert false <= bound
    assert (p < 0.05).any(1).sum() > 2 * bound


LAWS = {
    "normal": lambda generator, size: generator.normal(size=size),
    "skewed": lambda generator, size: generator.exponential(size=size) - 1,
    "accuracies": lambda generator, size: generator.choice([-1.0, 0.0, 1.0], size=size, p=[0.15, 0.6, 0.25]) - 0.1,
}


@pytest.mark.parametrize("distribution", LAWS)
def test_bootstrap_intervals_cover_the_truth(distribution):
    """1,000 experiments of 100 instances, with mean 0. If the true coverage is 95 %, the share is within 2.7 points
    with probability over 0.9999; a point is added below for what n = 100 costs a BCa interval of a skewed mean."""
    differences = LAWS[distribution](np.random.default_rng(1), (1000, 100))
    low, high = bootstrap_interval(differences, resamples=2000)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert 0.95 - 0.037 < covered < 0.95 + 0.027


def test_bootstrap_interval_is_scipys():
    """Within the Monte-Carlo error of two sets of resamples: 5 % of the width, about five standard errors of an end."""
    differences = np.random.default_rng(2).gamma(0.5, size=(3, 40)) + np.array([[1000.0], [0.0], [-3.0]])
    low, high = bootstrap_interval(differences)
    for row, *ends in zip(differences, low, high, strict=True):
        expected = stats.bootstrap((row,), np.mean, method="BCa", n_resamples=10_000, random_state=3)
        width = np.ptp(expected.confidence_interval)
        np.testing.assert_allclose(ends, expected.confidence_interval, rtol=0, atol=0.05 * width)


def test_bootstrap_of_equal_differences_has_no_width():
    low, high = bootstrap_interval(np.array([[0.0] * 5, [0.25] * 5]))
    assert low.tolist() == high.tolist() == [0, 0.25]


def test_bootstrap_interval_turns_with_its_differences():
    """Shifting and scaling the differences shifts and scales the interval, in whatever units they are."""
    differences = np.random.default_rng(4).exponential(size=(2, 50))
    low, high = bootstrap_interval(differences)
    moved_low, moved_high = bootstrap_interval(1e6 * differences + 1e7)
    np.testing.assert_allclose(moved_low, 1e6 * low + 1e7, rtol=1e-5)
    np.testing.assert_allclose(moved_high, 1e6 * high + 1e7, rtol=1e-5)


def test_bootstrap_needs_two_instances():
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(np.zeros((3, 1)))


def test_results_do_not_depend_on_the_company():
    """A comparison's numbers are the same alone and among others, and the same again."""
    differences = np.random.default_rng(5).normal(size=(7, 300))
    together = [*bootstrap_interval(differences), sign_flip_test(differences)]
    alone = [*bootstrap_interval(differences[3:4]), sign_flip_test(differences[3:4])]
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(many[3], one[0], rtol=1e-5)
    np.testing.assert_array_equal(together, [*bootstrap_interval(differences), sign_flip_test(differences)])


def test_sign_flip_test_is_the_exact_one():
    """Against all 2^12 sign patterns: five standard errors of a share estimated from 10,000 draws, error below 1e-5."""
    differences = np.random.default_rng(6).normal(0.4, 1, size=(4, 12))
    patterns = np.array(list(product([-1, 1], repeat=12)))
    sums = np.abs(differences @ patterns.T)
    exact = (sums >= np.abs(differences.sum(1, keepdims=True)) - 1e-9).mean(1)
    np.testing.assert_allclose(sign_flip_test(differences), exact, rtol=0, atol=5 * 0.5 / 100)


def test_one_infinite_difference_is_no_evidence():
    """By itself: with either sign the mean is as far from zero. The other rows are tested as without it."""
    differences = np.array([[1.0] * 20, [1.0] * 19 + [math.inf], [-1.0] * 19 + [-math.inf]])
    p = sign_flip_test(differences, resamples=999)
    assert p.tolist() == [0.001, 1.0, 1.0]
    assert math.isnan(standard_error([1.0, 2.0, math.inf]) or 0)


@pytest.mark.parametrize(("wins", "losses"), [(9, 2), (30, 18), (5, 5), (1, 0)])
def test_sign_flip_test_of_accuracies_is_mcnemars(wins, losses):
    """Instances that both or neither solve do not matter; ties in the sums are counted as ties."""
    differences = np.array([[1.0] * wins + [-1.0] * losses + [0.0] * 150]) / 7
    expected = stats.binomtest(wins, wins + losses).pvalue
    np.testing.assert_allclose(sign_flip_test(differences), expected, rtol=0, atol=0.02)


def test_p_values_without_a_difference_and_with_the_clearest():
    p = sign_flip_test(np.array([[0.0] * 40, [1.0] * 40]), resamples=999)
    assert p.tolist() == [1, 1 / 1000]


def test_p_values_are_uniform_under_no_difference():
    """The share below 5 % among 2,000 comparisons; outside the bounds with probability below 1e-3."""
    p = sign_flip_test(np.random.default_rng(7).normal(size=(2000, 40)), resamples=1000)
    low, high = stats.binom.interval(1 - 1e-3, 2000, 0.05)
    assert low <= (p <= 0.05).sum() <= high


def test_normal_comparison():
    difference, stderr = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.0, 0.0])
    low, high = normal_interval(difference, stderr)
    np.testing.assert_allclose([low[0], high[0]], [1 - 0.97998, 1 + 0.97998], atol=1e-5)
    np.testing.assert_allclose(normal_test(difference, stderr), [0.0455003, 1, 0, 1], atol=1e-6)


def test_pairing_shrinks_intervals():
    """Two schedules that share what makes instances hard: the paired interval is far narrower than the unpaired one."""
    generator = np.random.default_rng(8)
    hardness = generator.normal(size=300)
    first, second = hardness + 0.2 * generator.normal(size=(2, 300))
    paired = bootstrap_interval((first - second)[None])
    errors = [standard_error(scores.tolist()) or 0 for scores in (first, second)]
    unpaired = normal_interval(np.array([first.mean() - second.mean()]), np.array([np.hypot(*errors)]))
    assert paired.high - paired.low < 0.4 * (unpaired.high - unpaired.low)


def test_standard_error():
    assert standard_error([1, 0, 0, 1]) == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)
    assert standard_error([1]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=15))
def test_pareto_front_is_brute_force(points):
    def dominated(cost, quality):
        return any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)

    front = pareto_front(*zip(*points, strict=True))
    assert front.tolist() == [not dominated(*point) for point in points]


def test_rank_correlation_is_spearmans():
    x, y = np.random.default_rng(9).integers(0, 6, size=(2, 30)).astype(float)
    assert rank_correlation(x.tolist(), y.tolist()) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)


@pytest.mark.parametrize("comparisons", [1, 8])
def test_power_by_simulation(comparisons):
    """A true difference of the stated size is found four times in five, and with the stated number of instances, by the
    test that the reports use: within five standard errors of 600 simulations."""
    generator, n, spread = np.random.default_rng(0), 150, 0.7
    size = detectable_difference(spread / n**0.5, comparisons)
    needed = instances_needed(size / 2, spread / n**0.5, n, comparisons)
    assert needed == pytest.approx(4 * n, abs=1)
    for effect, instances in ((size, n), (size / 2, needed)):
        draws = generator.normal(effect, spread, size=(600, instances))
        found = normal_test(draws.mean(1), draws.std(1, ddof=1) / instances**0.5) * comparisons < 0.05
        assert abs(found.mean() - 0.8) < 5 * (0.16 / 600) ** 0.5
    assert instances_needed(0.0, 1.0, 10, 1) is None


def test_empirical_bernstein_holds_for_rare_events():
    """Numbers that are nearly always 0: a normal interval of 100 of them misses the mean in a third of the cases, this
    bound in 5 % at most; and it closes in on the mean."""
    generator = np.random.default_rng(4)
    samples = (generator.random((2000, 100)) < 0.01).astype(float)
    normal = samples.mean(1) + 1.645 * samples.std(1, ddof=1) / 10
    bounds = np.array([empirical_bernstein(row, 1.0) for row in samples])
    assert (normal < 0.01).mean() > 0.3
    assert (bounds < 0.01).mean() <= 0.05
    many = (generator.random(200_000) < 0.01).astype(float)
    assert 0.01 < empirical_bernstein(many, 1.0) < 0.0115
    with pytest.raises(ValueError, match="between 0 and 1"):
        empirical_bernstein(np.array([0.5, 1.5]), 1.0)
