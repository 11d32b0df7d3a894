"""What sampling in few steps will cost, while training: predicted from every validation, at no extra forward pass."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float64
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mdm_lightning.diffusion.profile.fit import fit_profile, sequences_behind
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.evaluation.likelihood.profile import revealed_counts
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.scalars import log_scalars

KNOTS = 25
"""Of a profile that is measured on plenty of sequences."""

SEQUENCES_PER_KNOT = 2
"""At least so many must lie behind every knot."""


class ScheduleWatch(Callback):
    """Logs the K-step NELBO of ancestral sampling, in nats per token, of chosen schedules at every validation.

    As ``val/nelbo_at_8/linear``: a bound on -log p of what the sampler generates in 8 steps, which unlike ``val/loss``
    depends on the schedule. It comes from the loss profile of the validation's own masks. Nothing is logged where
    sequences differ in their number of maskable positions, or are too few for a profile.

    Args:
        schedules: mask schedules by the name that they are logged under.
        steps: step budgets K.

    Raises:
        ValueError: a step budget is not positive.
    """

    def __init__(self, schedules: Mapping[str, MaskSchedule], steps: Sequence[int]) -> None:
        if any(budget < 1 for budget in steps):
            raise ValueError(f"ScheduleWatch: steps must be positive numbers, got {list(steps)}")
        self.schedules = dict(schedules)
        self.steps = list(steps)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        moments = pl_module.val_counts.compute()
        if moments is None or trainer.sanity_checking:
            return
        profile = running_profile(moments)
        if profile is not None:
            log_scalars(trainer, self.predictions(profile))

    def predictions(self, profile: LossProfile) -> dict[str, float]:
        """The K-step NELBO in nats per token of every schedule and step budget."""
        return {
            f"val/nelbo_at_{steps}/{name}": profile.nelbo(schedule, steps).value / profile.length
            for steps in self.steps
            for name, schedule in self.schedules.items()
        }


def running_profile(moments: Float64[Tensor, "n 3"]) -> LossProfile | None:
    """The loss profile of a validation (see CountProfileMetric), with as many knots as its sequences bear; None where
    they are too few for any.

    The masks are the same at every validation, so the knots are, too.
    """
    length = len(moments)
    sequences, scores, squares = moments.cpu().numpy().T
    for knots in range(KNOTS, 1, -1):
        counts = revealed_counts(length, knots)
        if sequences_behind(length, counts, sequences).min() >= SEQUENCES_PER_KNOT:
            return fit_profile(length, counts, sequences, scores, squares)
    return None
