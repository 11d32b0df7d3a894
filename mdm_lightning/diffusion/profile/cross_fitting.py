"""What was chosen on measured sequences, scored on others.

The minimum over many schedules or counts, scored on the very sequences that chose it, is too low: it profits from their
chance, the more the freer the choice. *Cross-fitting* chooses on one half of the sequences and scores on the other,
both ways. Each choice then knows half of the sequences only, so that what all of them choose is rather better.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.diffusion.profile.step_costs import StepCosts

Counts = Sequence[int] | Int64[np.ndarray, " k"]
"""Positions revealed at each step, n in all."""


class Estimate(NamedTuple):
    """A number with its standard error, in nats."""

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, " s"]) -> "Estimate":
        """The mean of independent values; infinite, without an error, if one of them is."""
        with np.errstate(invalid="ignore"):
            return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


class Divisible(Protocol):
    """Something measured on several sequences."""

    def part(self, sequences: slice) -> Self:
        """The same of some of them."""
        ...


Measured = TypeVar("Measured", bound=Divisible)
Choice = TypeVar("Choice")


def cross_fitted(
    measured: Measured,
    choose: Callable[[Measured], Choice],
    score: Callable[[Measured, Choice], Float64[np.ndarray, " s"]],
) -> Estimate:
    """The mean score of what other sequences chose: every second one chooses for the others, and the other way round.

    Args:
        measured: on at least four sequences.
        choose: a schedule or counts, given half of the sequences.
        score: of such a choice, for each sequence of a half.

    Raises:
        ValueError: there are fewer than four sequences.
    """
    halves = [measured.part(slice(first, None, 2)) for first in (0, 1)]
    scores = [score(half, choose(other)) for half, other in zip(halves, reversed(halves), strict=True)]
    return Estimate.of(np.concatenate(scores))


class CountCosts(ABC):
    """What steps cost each of several sequences: a loss profile, the table of an order, a path profile."""

    @abstractmethod
    def part(self, sequences: slice) -> Self:
        """The costs of some of the sequences."""

    @cached_property
    @abstractmethod
    def costs(self) -> StepCosts:
        """What they cost on average, from which counts and schedules are chosen."""

    @abstractmethod
    def per_sequence(self, counts: Counts) -> Float64[np.ndarray, " s"]:
        """What so many positions per step cost each sequence, in nats; the mean is ``costs.score(counts)``."""

    def gap_to_singly(self, counts: Counts) -> Float64[np.ndarray, " s"]:
        """What they cost each sequence more than one position at a time, in nats. The errors of the two largely
        cancel."""
        return self.per_sequence(counts) - self.per_sequence(np.ones(self.costs.length, dtype=np.int64))

    def cross_fitted_cost(self, choose: Callable[[StepCosts], Counts]) -> Estimate:
        """What chosen counts cost sequences that did not choose them, in nats per sequence.

        Args:
            choose: makes counts of costs, as ``lambda costs: costs.best_counts(8)``.

        Raises:
            ValueError: there are fewer than four sequences.
        """
        return cross_fitted(self, lambda half: choose(half.costs), lambda half, counts: half.per_sequence(counts))

    def cross_fitted_gap(self, choose: Callable[[StepCosts], Counts]) -> Estimate:
        """The same for what they cost more than one position at a time.

        Raises:
            ValueError: there are fewer than four sequences.
        """
        return cross_fitted(self, lambda half: choose(half.costs), lambda half, counts: half.gap_to_singly(counts))
