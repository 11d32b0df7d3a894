"""Comparing schedules on the same instances: paired differences, how sure they are, and what was looked at.

Scores are paired: under every schedule instance i is completed with the same noise, so that what makes an instance hard
cancels in the difference. All functions take one row of differences per comparison and treat the rows together.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95

# Numbers drawn at once: a few megabytes, which stay in the processor's cache.
_CHUNK = 500_000


class Interval(NamedTuple):
    """Confidence intervals of c differences; NaN where there are none."""

    low: Float64[np.ndarray, " c"]
    high: Float64[np.ndarray, " c"]


def bootstrap_interval(
    differences: Float64[np.ndarray, "c n"], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Bias-corrected and accelerated bootstrap intervals (BCa; Efron, 1987) of the means of paired differences.

    The instances are resampled, the same for all rows. An interval has no width where all differences are equal.

    Args:
        differences: score under one schedule minus score under another, per instance.
        level: nominal coverage.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: fewer than two instances, which say nothing about their spread.
    """
    n = differences.shape[1]
    if n < 2:
        raise ValueError(f"bootstrap_interval: needs at least 2 instances, got {n}")
    means = differences.mean(1)
    # Around their mean, single precision is plenty for the resampled means, and half the work.
    centred = differences - means[:, None]
    resampled = np.sort(_resampled_means(centred.astype(np.float32), resamples, seed), axis=1)
    tie = 1e-6 * np.abs(centred).mean(1, keepdims=True)
    below = ((resampled < -tie).mean(1) + (resampled <= tie).mean(1)) / 2
    bias = stats.norm.ppf(below.clip(0.5 / resamples, 1 - 0.5 / resamples))
    spread = (centred**2).sum(1)
    acceleration = np.divide((centred**3).sum(1), 6 * spread**1.5, out=np.zeros(len(means)), where=spread > 0)

    def end(z: float) -> Float64[np.ndarray, " c"]:
        share = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        return means + _quantile(resampled, share)

    z = float(stats.norm.ppf((1 + level) / 2))
    return Interval(end(-z), end(z))


def sign_flip_test(
    differences: Float64[np.ndarray, "c n"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float64[np.ndarray, " c"]:
    """Two-sided p-values of the paired permutation test.

    If two schedules are equally good, an instance's difference could as well have had the other sign. The p-value is
    the share of random sign patterns (the same for all rows, and the observed one among them) with a mean at least as
    far from zero; it is never below 1 / (resamples + 1). With differences of -1, 0 and 1 it is McNemar's exact test.
    With an infinite difference it is 1: whatever its sign, the mean is as far from zero.
    """
    rows, n = differences.shape
    finite = np.isfinite(differences).all(1, keepdims=True)
    differences = np.where(finite, differences, 0)
    scale = np.abs(differences).max(1, initial=0)
    scaled = differences / np.where(scale > 0, scale, 1)[:, None]
    total = scaled.sum(1)
    threshold = np.abs(total) - 1e-5 * np.abs(scaled).sum(1)
    columns = np.ascontiguousarray(scaled.T.astype(np.float32))
    generator = np.random.default_rng(seed)
    extreme = np.zeros(rows, dtype=np.int64)
    for size in _chunks(resamples, n):
        coins = np.frombuffer(generator.bytes(size * -(-n // 8)), dtype=np.uint8).reshape(size, -1)
        heads = np.unpackbits(coins, axis=1, count=n).astype(np.float32)
        extreme += (np.abs(2 * (heads @ columns) - total) >= threshold).sum(0)
    return (1 + extreme) / (1 + resamples)


def normal_interval(
    difference: Float64[np.ndarray, " c"], stderr: Float64[np.ndarray, " c"], *, level: float = LEVEL
) -> Interval:
    """Intervals from a normal distribution with the given standard errors, for means that are not paired."""
    half = stats.norm.ppf((1 + level) / 2) * stderr
    return Interval(difference - half, difference + half)


def normal_test(difference: Float64[np.ndarray, " c"], stderr: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, " c"]:
    """Two-sided p-values of the z-test; without spread 1 for equal means and 0 for unequal ones."""
    z = np.divide(np.abs(difference), stderr, out=np.where(difference == 0, 0.0, np.inf), where=stderr > 0)
    return 2 * stats.norm.sf(z)


def holm(p: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, " c"]:
    """p-values corrected for the number of comparisons (Holm, 1979): below 0.05 with probability at most 5 % for any of
    the comparisons in which there is nothing to find, however they depend on each other."""
    order = np.argsort(p, kind="stable")
    stepwise = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = stepwise.clip(max=1)
    return corrected


def detectable_difference(stderr: float, comparisons: int, *, power: float = 0.8, level: float = 1 - LEVEL) -> float:
    """The smallest true difference that a two-sided test finds with the given probability, if it is one of so many
    comparisons and all of them are corrected (Bonferroni, which is Holm's first step). By the normal approximation.

    Args:
        stderr: of a measured difference.
        comparisons: how many are corrected together.
        power: probability of finding it.
        level: of the corrected test.
    """
    return float(stats.norm.ppf(1 - level / (2 * comparisons)) + stats.norm.ppf(power)) * stderr


def instances_needed(
    difference: float, stderr: float, n: int, comparisons: int, *, power: float = 0.8, level: float = 1 - LEVEL
) -> int | None:
    """How many instances would show a difference that n of them measured with a standard error; None if it is 0."""
    if difference == 0:
        return None
    return math.ceil(n * (detectable_difference(stderr, comparisons, power=power, level=level) / difference) ** 2)


def standard_error(scores: Sequence[float]) -> float | None:
    """Standard error of the mean of independent scores; None for a single one, NaN if one of them is infinite."""
    n = len(scores)
    with np.errstate(invalid="ignore"):
        return float(np.std(scores, ddof=1)) / n**0.5 if n > 1 else None


def empirical_bernstein(scores: Float64[np.ndarray, " n"], largest: float, *, level: float = LEVEL) -> float:
    """An upper bound on the mean of independent numbers between 0 and ``largest``, from n of them, which holds with
    probability ``level`` whatever their distribution is (Maurer and Pontil, 2009, theorem 4):

        mean + sqrt(2 V log(2 / delta) / n) + 7 largest log(2 / delta) / (3 (n - 1)),    delta = 1 - level.

    Raises:
        ValueError: there are fewer than two, or one is out of range.
    """
    n = len(scores)
    if n < 2 or scores.min() < -1e-9 * largest or scores.max() > largest * (1 + 1e-9):
        raise ValueError(f"empirical_bernstein: needs two or more numbers between 0 and {largest:g}")
    log = math.log(2 / (1 - level))
    return float(scores.mean() + np.sqrt(2 * scores.var(ddof=1) * log / n) + 7 * largest * log / (3 * (n - 1)))


def pareto_front(cost: Sequence[float], quality: Sequence[float]) -> Bool[np.ndarray, " c"]:
    """Which points are on the front: nothing else is at least as good at no more cost, and better in one of the two."""
    c, q = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    no_worse = (c <= c[:, None]) & (q >= q[:, None])
    better = (c < c[:, None]) | (q > q[:, None])
    return np.logical_not((no_worse & better).any(axis=1))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where one of the two does not vary."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    ranks = np.corrcoef(stats.rankdata(x), stats.rankdata(y))
    return float(ranks[0, 1])


def _resampled_means(rows: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of each row over the same bootstrap samples of its columns, (c, resamples)."""
    n = rows.shape[1]
    columns = np.ascontiguousarray(rows.T)
    generator = np.random.default_rng(seed)
    means = []
    for size in _chunks(resamples, n):
        drawn = generator.integers(n, size=(size, n), dtype=np.min_scalar_type(n)).astype(np.int64)
        drawn += np.arange(size)[:, None] * n
        times_drawn = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(times_drawn.astype(np.float32) @ columns / n)
    return np.concatenate(means).T


def _chunks(resamples: int, n: int) -> list[int]:
    size = max(1, _CHUNK // max(n, 1))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _quantile(ordered: np.ndarray, share: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, " c"]:
    """The quantile of each row of ordered numbers, interpolated linearly."""
    place = share * (ordered.shape[1] - 1)
    floor = np.floor(place).astype(np.int64)
    ceiling = np.minimum(floor + 1, ordered.shape[1] - 1)
    row = np.arange(len(ordered))
    low, high = ordered[row, floor].astype(np.float64), ordered[row, ceiling].astype(np.float64)
    return low + (place - floor) * (high - low)
