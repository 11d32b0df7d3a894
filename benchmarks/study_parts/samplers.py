"""What is compared: nine schedules that are given, and the one that an order's own costs advise."""

from collections.abc import Mapping, Sequence

from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    CosineSchedule,
    LinearSchedule,
    MaskSchedule,
    SquaredSineSchedule,
)
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.sampling.count import Expected

ADVISED = "advised Beta"
COUNT = Expected()

# Linear is Beta(0.5, 0.5) and squared sine Beta(1, 1); the others are corners and middle of the paper's range.
GIVEN: Sequence[MaskSchedule] = (
    LinearSchedule(),
    SquaredSineSchedule(),
    CosineSchedule(),
    *(BetaSchedule(a, b) for a, b in ((0.3, 0.3), (0.7, 0.7), (0.3, 0.9), (0.9, 0.3), (0.5, 0.9), (0.9, 0.5))),
)


def schedules(costs: StepCosts, steps: int) -> Mapping[str, MaskSchedule]:
    """The ten schedules of a step budget, by name; the last is what the costs advise."""
    advised = costs.best_beta(steps, COUNT.rounding)
    return {**{describe(schedule): schedule for schedule in GIVEN}, ADVISED: advised}


def positions(subject: Subject) -> int:
    """Positions to be revealed in a sequence."""
    return int(subject.data.validation[subject.first]["maskable"].sum())
