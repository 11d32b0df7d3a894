"""How many positions to reveal at each step.

A planned count knows before anything is generated; an adaptive count asks the denoiser's predictions.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check_numbers, check_shares
from mdm_lightning.diffusion.profile.counts import check_steps
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.sampling.evidence import Candidates, entropy, largest_probability
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.plan import RevealPlan


class PlannedCount(ABC):
    """A count that does not depend on the denoiser's predictions."""

    remasks: ClassVar[bool] = False
    """Whether revealed positions may be masked again."""
    reads_schedule: ClassVar[bool] = True
    """Whether the schedule matters: step k of K then begins at its time k / K."""
    reads_steps: ClassVar[bool] = True
    """Whether the step budget does."""
    reads_noise: ClassVar[bool] = True
    """Whether the numbers per step are a matter of chance, decided by the noise of the sequence."""

    @abstractmethod
    def plan(
        self,
        schedule: MaskSchedule,
        steps: Int64[Tensor, " b"],
        generated: Bool[Tensor, "b l"],
        noise: SequenceNoise,
    ) -> RevealPlan:
        """When each generated position is revealed if the order is random.

        The positions are exchangeable: another order takes only the number at each step from the plan.

        Args:
            schedule: mask schedule, run through once from t = 0 to t = 1 on a uniform grid.
            steps: number of steps of each sequence.
            generated: positions to be revealed.
            noise: reveal times u_i of the positions.
        """


class AdaptiveCount(ABC):
    """A count that depends on the predictions at the masked positions. It reveals at least one position per pass, and
    takes as many passes as it needs; a step budget is an upper bound, whose last step reveals all that is left."""

    reads_tokens: ClassVar[bool] = False
    """Whether the evidence depends on the tokens that were drawn, not only on their distributions."""
    reads_schedule: ClassVar[bool] = False
    reads_steps: ClassVar[bool] = True
    reads_noise: ClassVar[bool] = False

    @abstractmethod
    def evidence(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        """The number per masked position that the count depends on."""

    @abstractmethod
    def count(self, evidence: Float64[Tensor, "a l"], valid: Bool[Tensor, "a l"]) -> Int64[Tensor, " a"]:
        """How many to reveal, at least one, given the evidence in the order in which positions would be revealed.

        Args:
            evidence: evidence of each sequence's masked positions, first to be revealed first.
            valid: True where there is such a position; a prefix of each row.
        """


RevealCount = PlannedCount | AdaptiveCount


def alpha_grid(schedule: MaskSchedule, steps: Int64[Tensor, " b"]) -> Float64[Tensor, "b k"]:
    """alpha_t at t = 0, 1/K, ..., 1 for each sequence's number of steps K, exactly 0 and 1 at the ends.

    Rows have the length of the longest, and stay at 1 after their own end.
    """
    distinct, row = steps.clamp(min=1).unique(return_inverse=True)
    t = (torch.arange(int(distinct[-1]) + 1) / distinct[:, None].double()).clamp(max=1)
    alpha = schedule.alpha_t(t).clamp(0, 1)
    return torch.where(t == 0, 0.0, torch.where(t == 1, 1.0, alpha))[row]


class FixedCount(PlannedCount):
    """A planned count without chance: the numbers per step follow from schedule, steps and positions alone."""

    reads_noise: ClassVar[bool] = False

    @abstractmethod
    def quota(self, schedule: MaskSchedule, steps: Int64[Tensor, " b"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        """How many of n positions are revealed at each step: what the sampler does, advice scores and exact
        distributions enumerate.

        Args:
            schedule: mask schedule.
            steps: number of steps of each sequence.
            n: positions to be revealed in each sequence, to which its quota sums.
        """

    def plan(
        self,
        schedule: MaskSchedule,
        steps: Int64[Tensor, " b"],
        generated: Bool[Tensor, "b l"],
        noise: SequenceNoise,
    ) -> RevealPlan:
        quota = self.quota(schedule, steps, generated.sum(1))
        times = noise.reveal_times(generated.shape[1]).masked_fill(~generated, math.inf)
        rank = times.argsort(dim=1, stable=True).argsort(dim=1)
        return RevealPlan.once(torch.searchsorted(quota.cumsum(1), rank, right=True), generated, steps)

    def counts(self, schedule: MaskSchedule, steps: int, n: int) -> Int64[np.ndarray, " k"]:
        """The quota of one sequence.

        Raises:
            ValueError: there is not at least one step.
        """
        check_steps(steps)
        return self.quota(schedule, torch.tensor([steps]), torch.tensor([n]))[0].numpy()


@dataclass(frozen=True)
class Binomial(PlannedCount):
    """The independent reverse step: from s to t each masked position is revealed with probability
    (alpha_t - alpha_s) / (1 - alpha_s) (MDLM, Sahoo et al., 2024).

    Position i is revealed at the first grid point with alpha_t > u_i, which is the same distribution with all the
    randomness drawn up front. Together with the order Random it is MDLM's ancestral sampler.
    """

    def plan(
        self,
        schedule: MaskSchedule,
        steps: Int64[Tensor, " b"],
        generated: Bool[Tensor, "b l"],
        noise: SequenceNoise,
    ) -> RevealPlan:
        alpha = alpha_grid(schedule, steps)
        grid_point = torch.searchsorted(alpha, noise.reveal_times(generated.shape[1]), right=True)
        return RevealPlan.once(grid_point - 1, generated, steps)


class RoundedCount(FixedCount):
    """The schedule's share of the positions at each step, rounded."""

    @abstractmethod
    def divide(self, alpha: Float64[Tensor, "b k+1"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        """Whole numbers that sum to n.

        Args:
            alpha: kept share at the beginning and end of every step, from 0 to 1.
            n: positions to be revealed.
        """

    def quota(self, schedule: MaskSchedule, steps: Int64[Tensor, " b"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        return self.divide(alpha_grid(schedule, steps), n)

    def rounding(self, alpha: Float64[np.ndarray, "p k+1"], n: int) -> Int64[np.ndarray, "p k"]:
        """``divide`` for many schedules and one n: how a search over schedules rounds (``StepCosts.best_beta``)."""
        return self.divide(torch.from_numpy(alpha), torch.full((len(alpha),), n)).numpy()


@dataclass(frozen=True)
class Expected(RoundedCount):
    """Cumulative rounding: round(n alpha_t) of the n masked positions are revealed by time t.

    The count that the energy-minimising schedules are meant for (Chen et al., 2025). Some schedules reveal nothing at
    some steps; such a step costs no forward pass.
    """

    def divide(self, alpha: Float64[Tensor, "b k+1"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        return (n[:, None] * alpha).round().long().diff(dim=1)


@dataclass(frozen=True)
class LargestRemainder(RoundedCount):
    """Each step reveals its share n (alpha_t - alpha_s), rounded by the method of largest remainders, earlier first.

    With the linear schedule all shares are equal: n // steps per step, and one more in each of the first n % steps
    steps, which is LLaDA's rule (Nie et al., 2025). Expected spreads the remainder over the steps instead.
    """

    def divide(self, alpha: Float64[Tensor, "b k+1"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        # In units of 1e-9 positions: shares that are equal but for rounding must tie.
        share = (n[:, None] * alpha.diff(dim=1) * 1e9).round().long()
        quota = torch.div(share, 10**9, rounding_mode="floor")
        by_remainder = (share - quota * 10**9).argsort(dim=1, descending=True, stable=True)
        return quota + (by_remainder.argsort(dim=1) < n[:, None] - quota.sum(1, keepdim=True)).long()


class FixedSizes(FixedCount):
    """Numbers per step that follow from the number of positions alone, with as many steps as that takes: neither the
    schedule nor the step budget matters."""

    reads_schedule: ClassVar[bool] = False
    reads_steps: ClassVar[bool] = False

    @abstractmethod
    def revealed(self, steps: int) -> int:
        """Positions revealed after so many steps, if there are as many; more with each step."""

    def quota(self, schedule: MaskSchedule, steps: Int64[Tensor, " b"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        stops, most = [0], int(n.max())
        while stops[-1] < most:
            stops.append(self.revealed(len(stops)))
        return torch.minimum(torch.tensor(stops), n[:, None]).diff(dim=1)

    def plan(
        self,
        schedule: MaskSchedule,
        steps: Int64[Tensor, " b"],
        generated: Bool[Tensor, "b l"],
        noise: SequenceNoise,
    ) -> RevealPlan:
        needed = (self.quota(schedule, steps, generated.sum(1)) > 0).sum(1)
        return super().plan(schedule, needed, generated, noise)


@dataclass(frozen=True)
class FirstHitting(FixedSizes):
    """Exactly one position per forward pass: the limit of infinitely many steps (Zheng et al., 2024).

    The forward passes are as many as the masked positions. With the order Random, the order is that of Binomial under
    every schedule.
    """

    def revealed(self, steps: int) -> int:
        return steps


@dataclass(frozen=True)
class EntropyBounded(AdaptiveCount):
    """As many positions as the error of revealing them independently allows (EB-sampler, Ben-Hamu et al., 2025).

    The longest prefix of the order whose entropies sum to at most ``gamma`` more than the largest of them: that sum
    bounds the mutual information that is lost.

    Args:
        gamma: the bound, in nats; 0 reveals one position per pass, apart from those that are certain.

    Raises:
        ValueError: the bound is negative.
    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, gamma=0)

    def evidence(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return entropy(candidates.logits)

    def count(self, evidence: Float64[Tensor, "a l"], valid: Bool[Tensor, "a l"]) -> Int64[Tensor, " a"]:
        evidence = evidence.masked_fill(~valid, 0)
        # Maximum and sum grow along the row, and their difference with them, so the bound holds on a prefix.
        loss = evidence.cumsum(1) - evidence.cummax(1).values
        return ((loss <= self.gamma) & valid).sum(1).clamp(min=1)


@dataclass(frozen=True)
class ProbabilityThreshold(AdaptiveCount):
    """All positions whose most probable token has at least the given probability, and at least one.

    ConfidenceThreshold without a look at the token that was drawn, which at temperature 0 it is. With an order other
    than MaxProbability: the longest prefix of the order in which all are.

    Args:
        threshold: probability of the most probable token from which on a position is revealed.

    Raises:
        ValueError: the threshold is no probability.
    """

    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_shares(self, "threshold")

    def evidence(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return largest_probability(candidates.logits)

    def count(self, evidence: Float64[Tensor, "a l"], valid: Bool[Tensor, "a l"]) -> Int64[Tensor, " a"]:
        return ((evidence >= self.threshold) & valid).long().cumprod(1).sum(1).clamp(min=1)


@dataclass(frozen=True)
class ConfidenceThreshold(ProbabilityThreshold):
    """All positions predicted with at least the given probability (Fast-dLLM, Wu et al., 2025), and at least one.

    With an order other than Confidence: the longest prefix of the order in which all are.

    Args:
        threshold: probability of the drawn token from which on it is revealed.

    Raises:
        ValueError: the threshold is no probability.
    """

    reads_tokens: ClassVar[bool] = True

    def evidence(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return candidates.confidence
