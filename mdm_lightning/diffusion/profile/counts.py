"""A schedule on a grid of steps, and the best of all counts per step by dynamic programming."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64

from mdm_lightning.diffusion.schedule import MaskSchedule, TabulatedSchedule


def alphas_on_grid(schedule: MaskSchedule, steps: int) -> Float64[np.ndarray, " k+1"]:
    """alpha_t at t = 0, 1/K, ..., 1, exactly 0 and 1 at the ends.

    Raises:
        ValueError: there is not at least one step.
    """
    check_steps(steps)
    inside = schedule.alpha_t(torch.arange(1, steps, dtype=torch.float64) / steps).clamp(0, 1).numpy()
    return np.concatenate([[0.0], inside, [1.0]])


def schedule_of_counts(counts: Sequence[int] | Int64[np.ndarray, " k"]) -> TabulatedSchedule:
    """The schedule with which the sampler's count Expected, in as many steps, reveals the given numbers."""
    revealed = np.concatenate([[0], np.cumsum(counts)])
    return TabulatedSchedule((revealed / revealed[-1]).tolist())


def cheapest_counts(costs: Float64[np.ndarray, " n"], steps: int) -> Int64[np.ndarray, " k"]:
    """Counts n_k that sum to n and minimise sum over k of n_k h_{r_k}, where r_k positions were revealed before step k.

    Dynamic programming over the number of revealed positions, O(K n^2). No shape of h is assumed. Of equally good
    counts it returns one with the fewest non-empty steps, which come first.

    Args:
        costs: h_r for r = 0 ... n - 1, the cost of revealing a position when r are revealed.
        steps: the number of steps K; steps that are of no use stay empty.

    Raises:
        ValueError: there is not at least one step.
    """
    check_steps(steps)
    n = len(costs)
    revealed = np.arange(n + 1)
    jump = revealed - revealed[:-1, None]
    cost = np.where(jump > 0, jump * costs[:, None], np.inf)
    # Least cost of going from r to n in exactly so many non-empty steps, and the first stop on that way.
    to_go, stops, totals = np.append(np.full(n, np.inf), 0.0), [], []
    for _ in range(min(steps, n)):
        ways = cost + to_go
        stops.append(ways.argmin(axis=1))
        to_go = np.append(ways[revealed[:-1], stops[-1]], np.inf)
        totals.append(to_go[0])
    path = [0]
    for stop in reversed(stops[: int(np.argmin(totals)) + 1]):
        path.append(int(stop[path[-1]]))
    counts = np.zeros(steps, dtype=np.int64)
    counts[: len(path) - 1] = np.diff(path)
    return counts


def check_steps(steps: int) -> None:
    """Refuses a step budget of less than one step.

    Raises:
        ValueError: it is one.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
