"""What steps cost each of several sequences, measured at a few numbers r of revealed positions, the anchors.

At an anchor the masked positions stand in the order in which they would be revealed, and what the first m of them cost
is what was measured. In between, the cost per masked position is interpolated, linearly in r, at an equal share of what
is masked:

    f_r(u) = C(r, u (n - r)) / (n - r),      C(r, m) = (n - r) f_r(m / (n - r)).

Of C(r, m) = m h_r, positions in random order, that makes a linear h.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import logsumexp

from mdm_lightning.diffusion.profile.cross_fitting import CountCosts, Counts, Estimate
from mdm_lightning.diffusion.profile.step_costs import StepCosts


@dataclass(frozen=True, eq=False, repr=False)
class AnchoredCosts(CountCosts):
    """Costs of s sequences, or of blocks of sequences, of n positions at a anchors.

    Args:
        anchors: numbers r of revealed positions, increasing from 0 to at most n - 1.
        curves: entry (s, a, j) is what the first j positions cost sequence s at the anchor, in nats; 0 for j = 0; what
            lies beyond the masked positions is not read.
        owners: number of the sequence that each is a block of: blocks of one sequence are not independent. None where
            each is a sequence.

    Raises:
        ValueError: the shapes do not fit each other, or there are fewer than two sequences.
    """

    anchors: Int64[np.ndarray, " a"]
    curves: Float64[np.ndarray, "s a n+1"]
    owners: Int64[np.ndarray, " s"] | None = None

    def __post_init__(self) -> None:
        rows, anchors, width = self.curves.shape
        name = type(self).__name__
        if self.owners is not None and self.owners.shape != (rows,):
            raise ValueError(f"{name}: there must be an owner for each of {rows} blocks")
        sequences = rows if self.owners is None else len(np.unique(self.owners))
        if sequences < 2:
            raise ValueError(f"{name}: there must be two sequences or more, got {sequences}")
        increasing = self.anchors.shape == (anchors,) and anchors and self.anchors[0] == 0
        if not increasing or (np.diff(self.anchors) < 1).any() or self.anchors[-1] > width - 2:
            raise ValueError(f"{name}: anchors must increase from 0 to at most n - 1 = {width - 2}, one per curve")

    def __repr__(self) -> str:
        name, sequences, anchors = type(self).__name__, len(self.curves), len(self.anchors)
        return f"{name}({sequences} sequences of {self.length} positions, {anchors} anchors)"

    @property
    def length(self) -> int:
        """n."""
        return self.curves.shape[2] - 1

    def part(self, sequences: slice) -> Self:
        """The costs of some of the sequences, with all their blocks."""
        fewer = object.__new__(type(self))  # whatever the constructor of a subclass makes curves of
        if self.owners is None:
            AnchoredCosts.__init__(fewer, self.anchors, self.curves[sequences])
        else:
            kept = np.isin(self.owners, np.unique(self.owners)[sequences])
            AnchoredCosts.__init__(fewer, self.anchors, self.curves[kept], self.owners[kept])
        return fewer

    @cached_property
    def costs(self) -> StepCosts:
        """The mean C(r, m) in nats: best counts and best Beta schedules for every step budget."""
        mean, n = self._mean[None], self.length
        table = np.full((n, n + 1), np.inf)
        for revealed in range(n):
            table[revealed, revealed + 1 :] = self._ahead(mean, revealed, np.arange(1, n - revealed + 1))[0]
        return StepCosts(table)

    def per_sequence(self, counts: Counts) -> Float64[np.ndarray, " s"]:
        """What so many positions at each step cost each sequence, in nats; of sequences in blocks, each one's share of
        the mean cost of a block, to first order (delta method).

        Raises:
            ValueError: the counts do not sum to n.
        """
        cost = self.per_row(counts)
        if self.owners is None:
            return cost
        _, owner, blocks = np.unique(self.owners, return_inverse=True, return_counts=True)
        mean = cost.mean()
        if not np.isfinite(mean):
            return np.full(len(blocks), mean)
        return mean + (np.bincount(owner, cost) - mean * blocks) / blocks.mean()

    def per_row(self, counts: Counts) -> Float64[np.ndarray, " s"]:
        """What they cost each sequence or block, in nats.

        Raises:
            ValueError: the counts do not sum to n.
        """
        numbers = np.asarray(counts, dtype=np.int64)
        if (numbers < 0).any() or numbers.sum() != self.length:
            raise ValueError(
                f"{type(self).__name__}: the counts must sum to the length {self.length}, got {numbers.sum()}"
            )
        cost = np.zeros(len(self.curves))
        for revealed, count in zip(numbers.cumsum() - numbers, numbers, strict=True):
            if count:
                cost += self._ahead(self._each, int(revealed), np.array([count]))[:, 0]
        return cost

    def score(self, counts: Counts) -> Estimate:
        """The mean of ``per_sequence``, in nats."""
        return Estimate.of(self.per_sequence(counts))

    def gap(self, counts: Counts) -> Estimate:
        """What counts cost more than one position at a time, in nats. The errors of the two largely cancel."""
        return Estimate.of(self.gap_to_singly(counts))

    @cached_property
    def _mean(self) -> Float64[np.ndarray, "a n+1"]:
        return self.curves.mean(0)

    @cached_property
    def _each(self) -> Float64[np.ndarray, "s a n+1"]:
        """Curves of the sequences whose mean is ``_mean``."""
        return self.curves

    def _ahead(
        self, curves: Float64[np.ndarray, "c a n+1"], revealed: int, counts: Int64[np.ndarray, " k"]
    ) -> Float64[np.ndarray, "c k"]:
        """C(r, m) for each curve and m."""
        masked = self.length - revealed
        after = min(int(np.searchsorted(self.anchors, revealed)), len(self.anchors) - 1)
        before = max(after - 1, 0) if self.anchors[after] > revealed else after
        span = int(self.anchors[after] - self.anchors[before])
        weight = (revealed - int(self.anchors[before])) / span if span else 0.0
        cost = np.zeros((len(curves), len(counts)))
        for anchor, part in ((before, 1 - weight), (after, weight)):
            if part > 0:
                there = self.length - int(self.anchors[anchor])
                cost += part / there * _at(curves[:, anchor], counts / masked * there, there)
        return cost * masked


@dataclass(frozen=True, eq=False, repr=False)
class SolvedCosts(AnchoredCosts):
    """The same for the share of sequences that steps leave intact, for problems with one right answer: a step costs
    -log of the mean of exp(-curve) over sequences.

    That is no mean over sequences. Each sequence has the first order of what it contributes (the delta method), which
    is one: the mean is the cost, and the standard error that of the cost.
    """

    @cached_property
    def _mean(self) -> Float64[np.ndarray, "a n+1"]:
        return np.log(len(self.curves)) - logsumexp(-self.curves, axis=0)

    @cached_property
    def _each(self) -> Float64[np.ndarray, "s a n+1"]:
        with np.errstate(invalid="ignore"):
            share = np.exp(self._mean - self.curves)
        return self._mean + 1 - np.where(np.isfinite(self._mean), share, 1.0)


def _at(
    curves: Float64[np.ndarray, "c n+1"], places: Float64[np.ndarray, " u"], masked: int
) -> Float64[np.ndarray, "c u"]:
    """Curves over the masked positions at places from 0 to their number, linear in between."""
    places = np.clip(places, 0, masked)
    floor = np.minimum(np.floor(places + 1e-9).astype(np.int64), masked - 1)
    weight = np.clip(places - floor, 0, 1)
    low, high = curves[:, floor], curves[:, floor + 1]
    with np.errstate(invalid="ignore"):
        # Not 0 x infinity where a curve ends in a token of probability zero.
        return np.where(weight == 0, low, np.where(weight == 1, high, low * (1 - weight) + high * weight))
