"""The best Beta schedule by a search over its two parameters."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy import special

from mdm_lightning.diffusion.schedule import BetaSchedule

Scores = Callable[[Float64[np.ndarray, "p 2"]], Float64[np.ndarray, " p"]]

_COARSE = 15  # parameters per side of the first grid
_STARTS = 3  # of its points are refined
_LEVELS = 6  # of refinement, each three times finer than the one before
_NEARBY = np.stack(np.meshgrid(*[np.linspace(-1, 1, 7)] * 2), axis=-1).reshape(-1, 2)


def best_beta(scores: Scores, lowest: float, highest: float, *candidates: BetaSchedule) -> BetaSchedule:
    """The Beta schedule of least score, to three digits or so.

    A grid of parameters, evenly spaced in the logarithm, then ever finer grids around its best points: scores may be
    constant in places, as those of rounded counts are. The linear schedule is the first candidate and the squared sine
    the second, before those given; the first of equals wins.

    Args:
        scores: scores of many pairs (alpha, beta) at once.
        lowest: least value of a parameter.
        highest: greatest value of a parameter.
        candidates: schedules to begin with; the result is at least as good.
    """
    spacing = np.linspace(np.log(lowest), np.log(highest), _COARSE)
    grid = np.stack(np.meshgrid(spacing, spacing), axis=-1).reshape(-1, 2)
    named = np.log([[0.5, 0.5], [1.0, 1.0], *([schedule.alpha, schedule.beta] for schedule in candidates)])
    points = np.concatenate([np.clip(named, spacing[0], spacing[-1]), grid])
    values = scores(np.exp(points))
    first = np.argsort(values, kind="stable")[:_STARTS]
    points, least, radius = points[first], values[first], spacing[1] - spacing[0]
    for _ in range(_LEVELS):
        nearby = np.clip(points[:, None] + radius * _NEARBY, spacing[0], spacing[-1])
        values = scores(np.exp(nearby.reshape(-1, 2))).reshape(len(points), -1)
        chosen, row = values.argmin(axis=1), np.arange(len(points))
        better = values[row, chosen] < least
        points = np.where(better[:, None], nearby[row, chosen], points)
        least = np.where(better, values[row, chosen], least)
        radius /= 3
    alpha, beta = np.exp(points[least.argmin()])
    return BetaSchedule(float(alpha), float(beta))


def beta_arcs(parameters: Float64[np.ndarray, "p 2"], steps: int) -> Float64[np.ndarray, "p k+1"]:
    """gamma_t of many Beta schedules at t = 0, 1/K, ..., 1."""
    return special.betainc(parameters[:, :1], parameters[:, 1:], np.arange(steps + 1) / steps)


def beta_alphas(parameters: Float64[np.ndarray, "p 2"], steps: int) -> Float64[np.ndarray, "p k+1"]:
    """alpha_t of many Beta schedules at t = 0, 1/K, ..., 1, exactly 0 and 1 at the ends."""
    return np.sin(np.pi / 2 * beta_arcs(parameters, steps)) ** 2
