"""What steps cost a sampler: measured by whichever profile suits its order."""

from collections.abc import Mapping
from typing import NamedTuple

from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.evaluation.advice.paths import MeasuredPaths, Paths
from mdm_lightning.evaluation.advice.predicted import predictable
from mdm_lightning.evaluation.base import NotApplicable, Subject
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.sampling.count import PlannedCount
from mdm_lightning.sampling.order import PredictedOrder, Random, StaticOrder
from mdm_lightning.sampling.sampler import Sampler


class Costs(NamedTuple):
    """What profiles say a step costs."""

    by_name: Mapping[str, StepCosts]
    length: int
    """Positions of a sequence, or of a block."""
    blocks: int
    """Blocks per sequence."""
    sequences: int
    """Validation sequences that were used up."""
    passes: int
    """Forward passes of single sequences."""
    profile: LossProfile | None = None
    """For positions in random order."""


def measure_costs(sampler: Sampler, profile: Profile, paths: Paths, subject: Subject) -> Costs:
    """What a step costs, by the profiles that suit the sampler's order.

    Args:
        profile: how to measure the loss profile, and the table of another order that is known beforehand.
        paths: how to measure path profiles.

    Raises:
        NotApplicable: no profile predicts a sampler with this count.
    """
    count, order = sampler.count, sampler.order
    looks = isinstance(order, PredictedOrder)
    known = isinstance(count, PlannedCount) and not count.remasks if looks else predictable(sampler)
    if not known:
        raise NotApplicable(
            "a loss profile predicts neither adaptive nor remasking counts, nor blocks; of orders that look at the "
            "predictions a path profile does, in blocks too"
        )
    if looks:
        return path_costs(paths.measure(subject, sampler), task=subject.task is not None)
    if isinstance(order, StaticOrder) and not isinstance(order, Random):
        table = OrderCosts(order, profile.knots, profile.sequences, profile.batch_size).measure(subject)
        size = len(table.losses)
        return Costs({"table of the order": table.costs}, table.length, 1, size, size * len(table.anchors))
    measured, size = profile.measure(subject)
    return Costs({"loss profile": measured.costs}, measured.length, 1, size, size * len(measured.counts), measured)


def path_costs(measured: MeasuredPaths, *, task: bool) -> Costs:
    """What path profiles say a step costs: by likelihood and, for tasks, by the share that is solved, too."""
    names = {"responses": "path of responses", "own": "path of own output", "own blocks": "own blocks"}
    costs = {f"{names[name]}, likelihood": profile.likelihood_costs for name, profile in measured.profiles.items()}
    if task:
        solvable = [name for name in measured.profiles if name != "own blocks"]
        costs |= {f"{names[name]}, solved": measured.profiles[name].task_costs for name in solvable}
    length = measured.profiles["responses"].length
    return Costs(costs, length, measured.blocks, measured.sequences, measured.passes)
