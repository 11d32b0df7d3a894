"""A mask schedule of one's own, compared with others on a toy whose output distribution is known exactly.

python examples/own_schedule.py
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mdm_lightning.data.tasks.toy import balanced
from mdm_lightning.diffusion.schedule import LinearSchedule, MaskSchedule, SquaredSineSchedule, TabulatedSchedule
from mdm_lightning.evaluation.paper.exact_distribution import ExactSampler
from mdm_lightning.sampling.count import Binomial


@dataclass(frozen=True)
class SmoothStep(MaskSchedule):
    """alpha_t = t^2 (3 - 2t): few tokens at both ends, most in the middle.

    Three methods, elementwise in float64, make a schedule. ``masked_t`` is 1 - alpha_t, written so that nothing cancels
    near t = 1: the loss divides by it.
    """

    def alpha_t(self, t: Tensor | float) -> Tensor:
        t = LinearSchedule().alpha_t(t)  # as float64 on the CPU
        return t**2 * (3 - 2 * t)

    def masked_t(self, t: Tensor | float) -> Tensor:
        left = LinearSchedule().masked_t(t)
        return left**2 * (3 - 2 * left)

    def dalpha_t(self, t: Tensor | float) -> Tensor:
        t = LinearSchedule().alpha_t(t)
        return 6 * t * (1 - t)


def main() -> None:
    toy = ExactSampler(balanced(7))  # a's and b's, three or four of each
    schedules = {
        "linear": LinearSchedule(),
        "squared sine": SquaredSineSchedule(),
        "smooth step": SmoothStep(),
        # Without a class: any increasing values.
        "late": TabulatedSchedule([0.0, 0.05, 0.15, 0.4, 1.0]),
    }
    print("total variation distance between the sampler's output and the data")
    print(f"{'':12} {'3 steps':>8} {'5 steps':>8}")
    for name, schedule in schedules.items():
        distances = [np.abs(toy.distribution(schedule, steps, Binomial()) - toy.target).sum() / 2 for steps in (3, 5)]
        print(f"{name:12} {distances[0]:8.4f} {distances[1]:8.4f}")


if __name__ == "__main__":
    main()
