"""A loss profile from sequences that were each masked once: what a validation pass gives away for free."""

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from mdm_lightning.diffusion.profile.loss_profile import LossProfile


def fit_profile(
    length: int,
    counts: ArrayLike,
    sequences: Float64[np.ndarray, " n"],
    scores: Float64[np.ndarray, " n"],
    squares: Float64[np.ndarray, " n"],
) -> LossProfile:
    """The piecewise linear profile closest to the scores of sequences by their number r of revealed positions.

    A score is a sequence's mean cross-entropy over its n - r masked positions; with the hat functions B of the knots,
    its expectation is h_r = (B v)_r. Least squares with weights n - r, in proportion to which averaging over positions
    reduces the variance. The covariance of v is the sandwich estimator from the residuals: it holds whatever the
    variances are, and counts what the straight lines miss as noise.

    Args:
        length: n, maskable positions per sequence.
        counts: the knots, increasing from 0 to n - 1.
        sequences: number of sequences with r = 0 ... n - 1 positions revealed.
        scores: the sums of their scores, in nats.
        squares: the sums of their squared scores.

    Raises:
        ValueError: the sequences do not determine the value at every knot, or the knots are none.
    """
    hats = _hats(length, counts)
    weights = length - np.arange(length)
    normal = hats.T @ (hats * (weights * sequences)[:, None])
    total = sequences.sum()
    if np.linalg.matrix_rank(normal) < len(normal) or total <= len(normal):
        raise ValueError(f"fit_profile: {total:g} sequences do not determine the profile at {len(normal)} knots")
    values = np.linalg.solve(normal, hats.T @ (weights * scores))
    # Numbers of residuals and their squares by r; the factor undoes the shrinking of residuals by the fit.
    fitted = hats @ values
    spread = (squares - 2 * fitted * scores + fitted**2 * sequences).clip(min=0) * total / (total - len(normal))
    bread = np.linalg.inv(normal)
    covariance = bread @ (hats.T @ (hats * (weights**2 * spread)[:, None])) @ bread
    return LossProfile(length, counts, values, (covariance + covariance.T) / 2)


def sequences_behind(length: int, counts: ArrayLike, sequences: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " j"]:
    """How many sequences speak for each knot: so many, measured at the knot itself, would determine its value as well.

    The inverse of the value's variance in units of a sequence's; zero at all knots if some are not determined.
    """
    hats = _hats(length, counts)
    gram = hats.T @ (hats * sequences[:, None])
    if np.linalg.matrix_rank(gram) < len(gram):
        return np.zeros(len(gram))
    return 1 / np.linalg.inv(gram).diagonal()


def _hats(length: int, counts: ArrayLike) -> Float64[np.ndarray, "n j"]:
    return LossProfile(length, counts, np.zeros(np.size(counts))).interpolation
