"""A schedule on a grid of steps, and the schedule that given counts per step belong to."""

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


def check_steps(steps: int) -> None:
    """Refuses a step budget of less than one step.

    Raises:
        ValueError: it is one.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
