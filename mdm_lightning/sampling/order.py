"""Which positions to reveal first.

A static order is known before anything is generated; a predicted order asks the denoiser's predictions.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check, finite
from mdm_lightning.sampling.evidence import (
    Candidates,
    entropy,
    largest_probability,
    log_confidence,
    margin,
)
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.plan import NEVER, RevealPlan


class RevealOrder(ABC):
    """Which positions to reveal first: a StaticOrder or a PredictedOrder."""

    reads_tokens: ClassVar[bool] = False
    """Whether the priority depends on the tokens that were drawn, not only on their distributions."""
    reads_noise: ClassVar[bool] = False
    """Whether it is a matter of chance, decided by the noise of the sequence."""

    @abstractmethod
    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        """The position of highest priority in each sequence goes first; of equals, the leftmost."""


class StaticOrder(RevealOrder):
    """An order that does not depend on predictions: a planned count then knows its positions up front, and only those
    enter the head. In blocks, each block has an order of its own."""

    @abstractmethod
    def ranks(self, generated: Bool[Tensor, "b l"], noise: SequenceNoise) -> Int64[Tensor, "b l"]:
        """Place in the order, from 0, of each of the positions to be generated; elsewhere without meaning.

        Args:
            generated: the positions, on the CPU.
            noise: of the sequences, for orders that are a matter of chance.
        """

    def arrange(self, plan: RevealPlan, noise: SequenceNoise) -> RevealPlan:
        """The plan with the same number of positions at each step, in this order."""
        (steps,) = plan.reveal
        generated = steps != NEVER
        ranks = self.ranks(generated, noise).masked_fill(~generated, 0)
        return RevealPlan.once(steps.sort(dim=1).values.gather(1, ranks), generated, plan.lengths)

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return -candidates.ranks.double()


class PredictedOrder(RevealOrder):
    """An order that needs predictions at all masked positions."""


@dataclass(frozen=True)
class Random(StaticOrder):
    """Uniformly random, by the positions' reveal times u_i."""

    reads_noise: ClassVar[bool] = True

    def ranks(self, generated: Bool[Tensor, "b l"], noise: SequenceNoise) -> Int64[Tensor, "b l"]:
        times = noise.reveal_times(generated.shape[1]).masked_fill(~generated, math.inf)
        return times.argsort(dim=1, stable=True).argsort(dim=1)

    def arrange(self, plan: RevealPlan, noise: SequenceNoise) -> RevealPlan:
        """The plan itself, which may mask positions again."""
        return plan


@dataclass(frozen=True)
class LeftToRight(StaticOrder):
    """From left to right."""

    def ranks(self, generated: Bool[Tensor, "b l"], noise: SequenceNoise) -> Int64[Tensor, "b l"]:
        return generated.cumsum(1) - 1


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
            return candidates.confidence
        noise = self.noise * candidates.masked * _gumbel(candidates)
        return log_confidence(candidates.logits, candidates.tokens) + noise


@dataclass(frozen=True)
class MaxProbability(PredictedOrder):
    """Highest probability of any token first: Confidence without a look at the token that was drawn.

    At temperature 0 it is Confidence. Above, it keeps the denoiser's law as Margin and Entropy do, and the sampler has
    an exact likelihood (``walk``).
    """

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return largest_probability(candidates.logits)


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


@dataclass(frozen=True)
class GumbelTopK(PredictedOrder):
    """Positions drawn without replacement, in proportion to exp(priority / temperature) of another order: Dream's
    ``alg_temp`` (Ye et al., 2025), by the largest of priority / temperature plus Gumbel noise (Kool et al., 2019).

    As in Confidence, a position's noise is a function of its u_i and keeps through the steps; as long as priorities do
    too, the distribution is that of fresh noise at each step.

    Args:
        order: the other order; Dream's ``entropy``, ``topk_margin`` and ``maskgit_plus`` are Entropy, Margin and
            Confidence.
        temperature: the nearer to 0, the nearer to the other order.

    Raises:
        ValueError: the temperature is not positive.
    """

    reads_tokens: ClassVar[bool] = True
    reads_noise: ClassVar[bool] = True
    order: PredictedOrder
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check(self, "temperature", finite(self.temperature) and self.temperature > 0, "positive and finite")

    def priority(self, candidates: Candidates) -> Float64[Tensor, " m"]:
        return self.order.priority(candidates) / self.temperature + _gumbel(candidates)


def _gumbel(candidates: Candidates) -> Float64[Tensor, " m"]:
    """Gumbel numbers of the positions' reveal times; 2^-54 stands for u = 0, whose number is infinite."""
    return -torch.log(-torch.log(candidates.times.clamp(min=2**-54)))
