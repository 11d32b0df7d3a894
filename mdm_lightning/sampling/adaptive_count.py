"""More counts that ask the predictions: a bound on summed entropies, and an early exit."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check, check_numbers, finite
from mdm_lightning.sampling.count import AdaptiveCount
from mdm_lightning.sampling.evidence import Candidates, entropy


@dataclass(frozen=True)
class EntropySum(AdaptiveCount):
    """The longest prefix of the order whose entropies sum to at most ``gamma`` (the stop of arXiv:2603.22248), and at
    least one position.

    EntropyBounded leaves the largest entropy out of the sum, and so reveals as many or more.

    Args:
        gamma: bound on the sum, in nats.

    Raises:
        ValueError: it is negative.
    """

    gamma: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, gamma=0)

    def evidence(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return entropy(candidates.logits)

    def count(self, evidence: Float64[Tensor, "a l"], valid: Bool[Tensor, "a l"]) -> Int64[Tensor, " a"]:
        total = evidence.masked_fill(~valid, 0).cumsum(1)
        return ((total <= self.gamma) & valid).sum(1).clamp(min=1)


@dataclass(frozen=True)
class EarlyExit(AdaptiveCount):
    """So many positions per step, until the predictions are sure enough to reveal all that is left at once (after
    SchED, arXiv:2512.02892).

    Sure enough is a mean difference of the two largest logits, over the positions that are masked, of at least a
    threshold that falls linearly from ``high`` to ``low`` as positions are revealed. SchED takes the mean over the
    whole span, and the share of steps instead of positions.

    Args:
        per_step: positions per step before the exit.
        high: threshold while all is masked, in nats.
        low: threshold when nothing is masked any more.

    Raises:
        ValueError: a number is out of range.
    """

    per_step: int = 1
    high: float = 7.5
    low: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, per_step=1)
        for name in ("high", "low"):
            check(self, name, finite(getattr(self, name)), "finite")

    def evidence(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        largest = candidates.logits.topk(min(2, candidates.logits.shape[1]), dim=1).values.double()
        difference = largest[:, 0] - largest[:, 1] if largest.shape[1] == 2 else torch.inf
        return difference - (self.low + (self.high - self.low) * candidates.masked)

    def count(self, evidence: Float64[Tensor, "a l"], valid: Bool[Tensor, "a l"]) -> Int64[Tensor, " a"]:
        left = valid.sum(1)
        sure = evidence.masked_fill(~valid, 0).sum(1) >= 0
        return torch.where(sure, left, left.clamp(max=self.per_step))
