"""What steps cost along a static order, sequence by sequence: exact for every budget and every counts.

Where the order does not depend on content (random, left to right, spaced), the first r positions are the same however
many steps they took. So one forward pass per r gives C(r, m), the cross-entropy of the next m positions, for all m at
once, and the best counts by dynamic programming are the best there are for these sequences.
With positions in random order the expectation of C(r, m) is m h_r, the loss profile's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from mdm_lightning.diffusion.profile.loss_profile import Estimate
from mdm_lightning.diffusion.profile.step_costs import StepCosts

Counts = Sequence[int] | Int64[np.ndarray, " k"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class OrderTable:
    """Cross-entropies of s sequences along an order, measured at a few numbers r of revealed positions (anchors).

    At an anchor every C(r, m) is what was measured. Between two of them C(r, m) / (n - r) is linear in r at equal
    m / (n - r); for m h_r that is a linear h.

    Args:
        anchors: numbers r, increasing from 0 to n - 1.
        losses: entry (s, a, i) is the cross-entropy, in nats, of the i-th position of sequence s in its order when the
            first ``anchors[a]`` are revealed. Entries of positions that are revealed are not read.

    Raises:
        ValueError: the numbers do not describe a table, or there are fewer than two sequences.
    """

    anchors: Int64[np.ndarray, " a"]
    losses: Float64[np.ndarray, "s a n"]

    def __init__(self, anchors: ArrayLike, losses: ArrayLike) -> None:
        numbers, measured = np.array(anchors, dtype=np.int64), np.array(losses, dtype=np.float64)
        if measured.ndim != 3 or len(measured) < 2:
            raise ValueError(f"OrderTable: losses must have two sequences or more, got shape {measured.shape}")
        n = measured.shape[2]
        known = numbers.shape == measured.shape[1:2] and numbers.size and numbers[0] == 0 and numbers[-1] == n - 1
        if not known or (np.diff(numbers) < 1).any():
            raise ValueError(f"OrderTable: anchors must increase from 0 to n - 1 = {n - 1}")
        read = np.arange(n) >= numbers[:, None]
        if not np.isfinite(measured[:, read]).all():
            raise ValueError("OrderTable: losses must be finite")
        object.__setattr__(self, "anchors", numbers)
        object.__setattr__(self, "losses", np.where(read, measured, 0.0))

    def __repr__(self) -> str:
        return f"OrderTable({len(self.losses)} sequences of {self.length} positions, {len(self.anchors)} anchors)"

    @property
    def length(self) -> int:
        """n."""
        return self.losses.shape[2]

    @cached_property
    def costs(self) -> StepCosts:
        """The mean C(r, m) in nats: best counts and best Beta schedules for every step budget."""
        cumulative = self._cumulative.mean(0, keepdims=True)
        costs = np.zeros((self.length, self.length + 1))
        for r in range(self.length):
            costs[r, r + 1 :] = self._ahead(cumulative, r, np.arange(1, self.length - r + 1))[0]
        return StepCosts(costs)

    def per_sequence(self, counts: Counts) -> Float64[np.ndarray, " s"]:
        """-log P of each sequence, in nats, if so many positions are revealed at each step.

        Raises:
            ValueError: the counts do not sum to n.
        """
        numbers = np.asarray(counts, dtype=np.int64)
        if (numbers < 0).any() or numbers.sum() != self.length:
            raise ValueError(f"OrderTable: the counts must sum to the length {self.length}, got {numbers.sum()}")
        cost = np.zeros(len(self.losses))
        for r, m in zip(numbers.cumsum() - numbers, numbers, strict=True):
            if m:
                cost += self._ahead(self._cumulative, int(r), np.array([m]))[:, 0]
        return cost

    def score(self, counts: Counts) -> Estimate:
        """The mean of ``per_sequence``, in nats."""
        return _mean(self.per_sequence(counts))

    def gap(self, counts: Counts) -> Estimate:
        """What counts cost more than one position at a time, in nats. The errors of the two largely cancel."""
        return _mean(self.per_sequence(counts) - self.per_sequence(self._singly))

    def cross_fitted_gap(self, choose: Callable[[StepCosts], Counts]) -> Estimate:
        """The gap of counts that were chosen by other sequences: each half is scored with the choice of the other.

        What is chosen and scored on the same sequences profits from their chance, the more the freer the choice.

        Args:
            choose: makes counts of costs, as ``lambda costs: costs.best_counts(8)``.

        Raises:
            ValueError: there are fewer than four sequences.
        """
        halves = [OrderTable(self.anchors, self.losses[first::2]) for first in (0, 1)]
        chosen = [choose(half.costs) for half in halves]
        gaps = [
            half.per_sequence(counts) - half.per_sequence(self._singly)
            for half, counts in zip(halves, reversed(chosen), strict=True)
        ]
        return _mean(np.concatenate(gaps))

    @property
    def _singly(self) -> Int64[np.ndarray, " n"]:
        return np.ones(self.length, dtype=np.int64)

    @cached_property
    def _cumulative(self) -> Float64[np.ndarray, "s a n+1"]:
        """Sums of the losses at an anchor over the positions before each."""
        return np.concatenate([np.zeros((*self.losses.shape[:2], 1)), self.losses.cumsum(2)], axis=2)

    def _ahead(
        self, cumulative: Float64[np.ndarray, "s a n+1"], r: int, m: Int64[np.ndarray, " k"]
    ) -> Float64[np.ndarray, "s k"]:
        """C(r, m)."""
        n, place = self.length, int(np.searchsorted(self.anchors, r, side="right")) - 1
        if self.anchors[place] == r:
            return cumulative[:, place, r + m] - cumulative[:, place, [r]]
        weight = (r - self.anchors[place]) / (self.anchors[place + 1] - self.anchors[place])
        total = np.zeros((len(cumulative), len(m)))
        for anchor, share in ((place, 1 - weight), (place + 1, weight)):
            begin = int(self.anchors[anchor])
            end = begin + m / (n - r) * (n - begin)
            low = np.minimum(end.astype(np.int64), n - 1)
            sums = cumulative[:, anchor, low] + (end - low) * (
                cumulative[:, anchor, low + 1] - cumulative[:, anchor, low]
            )
            total += share * (sums - cumulative[:, anchor, [begin]]) / (n - begin)
        return (n - r) * total


def _mean(values: Float64[np.ndarray, " s"]) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))
