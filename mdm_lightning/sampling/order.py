"""Which positions to reveal first.

A static order is known before anything is generated; a predicted order asks the denoiser's predictions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.arguments import check, finite
from mdm_lightning.sampling.evidence import Candidates, confidence, entropy, log_confidence, margin
from mdm_lightning.sampling.plan import NEVER, RevealPlan


class RevealOrder(ABC):
    """Which positions to reveal first: a StaticOrder or a PredictedOrder."""

    reads_tokens: ClassVar[bool] = False
    """Whether the priority depends on the tokens that were drawn, not only on their distributions."""

    @abstractmethod
    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        """The position of highest priority in each sequence goes first; of equals, the leftmost."""


class StaticOrder(RevealOrder):
    """An order that does not depend on predictions: a planned count then knows its positions up front, and only those
    enter the head."""

    @abstractmethod
    def arrange(self, plan: RevealPlan) -> RevealPlan:
        """The plan with the same number of positions at each step, in this order."""


class PredictedOrder(RevealOrder):
    """An order that needs predictions at all masked positions."""


@dataclass(frozen=True)
class Random(StaticOrder):
    """Uniformly random, by the positions' reveal times u_i."""

    def arrange(self, plan: RevealPlan) -> RevealPlan:
        return plan

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return -candidates.times


@dataclass(frozen=True)
class LeftToRight(StaticOrder):
    """From left to right."""

    def arrange(self, plan: RevealPlan) -> RevealPlan:
        (steps,) = plan.reveal
        generated = steps != NEVER
        rank = (generated.cumsum(1) - 1).clamp(min=0)
        return RevealPlan.once(steps.sort(dim=1).values.gather(1, rank), generated, plan.lengths)

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return -candidates.positions.double()


@dataclass(frozen=True)
class Confidence(PredictedOrder):
    """Most probable drawn token first ("low-confidence remasking", LLaDA, Nie et al., 2025).

    All masked positions draw a token anew at each step. Since likely tokens are kept, the samples are less diverse than
    the denoiser's distribution even with one position per step; Margin and Entropy look at distributions only and keep
    the distribution.

    With ``noise``, Gumbel noise of that scale times the fraction still masked is added to the log-probability, as in
    MaskGIT (Chang et al., 2022). A position's noise is a function of its u_i and keeps through the steps; as long as
    the log-probabilities do too, the distribution is that of fresh noise at each step.

    Args:
        noise: scale of the Gumbel noise at the first step; 4.5 in MaskGIT.

    Raises:
        ValueError: the scale is negative.
    """

    reads_tokens: ClassVar[bool] = True
    noise: float = 0.0

    def __post_init__(self) -> None:
        check(self, "noise", finite(self.noise, 0), "finite and not negative")

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        if self.noise == 0:
            return confidence(candidates.logits, candidates.tokens)
        # 2^-54 in place of u = 0, whose Gumbel number is infinite.
        gumbel = -torch.log(-torch.log(candidates.times.clamp(min=2**-54)))
        return log_confidence(candidates.logits, candidates.tokens) + self.noise * candidates.masked * gumbel


@dataclass(frozen=True)
class Margin(PredictedOrder):
    """Largest difference between the two highest probabilities first (Kim et al., 2025, "top-K probability margin")."""

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return margin(candidates.logits)


@dataclass(frozen=True)
class Entropy(PredictedOrder):
    """Lowest entropy of the prediction first."""

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return -entropy(candidates.logits)
