"""The path profile: what steps cost in an order that looks at the predictions, from one walk per sequence.

In random order the mean cost of a step does not depend on how the state was reached, which makes the loss profile
exact. An order by confidence or entropy takes other positions in other states. So one *reference walk* is followed
through every sequence; at some states on it, the anchors, all masked positions are put into the order in which they
would be revealed, and the log-probabilities L_j of the sequence's own tokens are kept. What m positions at once cost is
read from the first m:

    likelihood:   C(r, m) = -mean over sequences of sum_{j<m} L_j
    one right answer:  C(r, m) = -log mean over sequences of exp(sum_{j<m} L_j), a share that is solved

and in between anchors by interpolation. The one approximation is that a schedule with other steps meets other states
with r positions revealed than the reference walk does. It is none for static orders; for others it is a bet, to be
checked on other instances before it is believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import logsumexp

from mdm_lightning.diffusion.profile.loss_profile import Estimate
from mdm_lightning.diffusion.profile.step_costs import StepCosts


@dataclass(frozen=True, eq=False, repr=False)
class PathProfile:
    """Log-probabilities along reference walks of s sequences, at a anchors.

    Sequences of other lengths than n have been stretched to it: a share u of what is masked at an anchor stays that
    share.

    Args:
        anchors: numbers r of revealed positions, increasing from 0 to at most n - 1.
        paths: entry (s, a, j) is the log-probability, in nats, of the tokens of the first j positions in the order at
            the anchor, summed; 0 for j = 0; what lies beyond the masked positions is not read.
        solid: share of the masked positions, in the order, before the first whose most probable token is not the
            sequence's own: 1 if there is none.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    anchors: Int64[np.ndarray, " a"]
    paths: Float64[np.ndarray, "s a n+1"]
    solid: Float64[np.ndarray, "s a"]

    def __post_init__(self) -> None:
        sequences, anchors, width = self.paths.shape
        increasing = self.anchors.shape == (anchors,) and anchors and self.anchors[0] == 0
        if not increasing or (np.diff(self.anchors) < 1).any() or self.anchors[-1] > width - 2:
            raise ValueError("PathProfile: anchors must increase from 0 to at most n - 1, one per column of the paths")
        if self.solid.shape != (sequences, anchors) or sequences < 2:
            raise ValueError("PathProfile: there must be two sequences or more, with a solid share at every anchor")

    def __repr__(self) -> str:
        return f"PathProfile({len(self.paths)} sequences, {self.length} positions, {len(self.anchors)} anchors)"

    @property
    def length(self) -> int:
        """n, positions to be revealed."""
        return self.paths.shape[2] - 1

    def part(self, sequences: Sequence[int] | Int64[np.ndarray, " t"]) -> "PathProfile":
        """The profile of some of the sequences."""
        return PathProfile(self.anchors, self.paths[sequences], self.solid[sequences])

    @cached_property
    def likelihood_costs(self) -> StepCosts:
        """Nats that a step costs on average."""
        return StepCosts(self._costs(-self.paths.mean(0, keepdims=True)))

    @cached_property
    def task_costs(self) -> StepCosts:
        """-log of the share of sequences that a step leaves intact, in nats: for problems with one right answer."""
        return StepCosts(self._costs(np.log(len(self.paths)) - logsumexp(self.paths, axis=0, keepdims=True)))

    def sequence_costs(self, counts: Sequence[int] | Int64[np.ndarray, " k"]) -> Float64[np.ndarray, " s"]:
        """Nats that so many positions per step cost each sequence; their mean is ``likelihood_costs.score(counts)``."""
        total = np.zeros(len(self.paths))
        for revealed, count in _steps(counts):
            share = np.array([count / (self.length - revealed)])
            total += self._cost(-self.paths, revealed, share)[:, 0]
        return total

    def predicted_accuracy(self, counts: Sequence[int] | Int64[np.ndarray, " k"], *, greedy: bool) -> Estimate:
        """The share of sequences that come out as they are, with its standard error over sequences.

        It means something where a problem has one right answer and the sequences are these answers. Each step is read
        at the nearest anchor of the reference walk; where the counts are those of the walk itself it is exact.

        Args:
            counts: positions revealed at each step, n in all.
            greedy: tokens are the most probable ones; otherwise they are drawn.
        """
        intact = np.zeros(len(self.paths))
        for revealed, count in _steps(counts):
            share = count / (self.length - revealed)
            anchor = int(np.abs(self.anchors - revealed).argmin())
            if greedy:
                intact += np.where(share <= self.solid[:, anchor] + 1e-9, 0.0, -np.inf)
            else:
                intact += self._at(self.paths[:, anchor], anchor, np.array([share]))[:, 0]
        solved = np.exp(intact)
        return Estimate(float(solved.mean()), float(solved.std(ddof=1) / len(solved) ** 0.5))

    def _at(
        self, curves: Float64[np.ndarray, "c n+1"], anchor: int, shares: Float64[np.ndarray, " u"]
    ) -> Float64[np.ndarray, "c u"]:
        """Curves over the positions that are masked at an anchor, at shares of them, linear in between."""
        masked = self.length - self.anchors[anchor]
        place = np.clip(shares * masked, 0, masked)
        floor = np.minimum(np.floor(place + 1e-9).astype(np.int64), masked - 1)
        weight = np.clip(place - floor, 0, 1)
        low, high = curves[:, floor], curves[:, floor + 1]
        with np.errstate(invalid="ignore"):
            # Not 0 x infinity where a curve ends in a token of probability zero.
            return np.where(weight == 0, low, np.where(weight == 1, high, low * (1 - weight) + high * weight))

    def _costs(self, curves: Float64[np.ndarray, "c a n+1"]) -> Float64[np.ndarray, "n n+1"]:
        """The mean over curves of the cost of going from r to r' for all r < r'."""
        n = self.length
        table = np.full((n, n + 1), np.inf)
        for revealed in range(n):
            shares = np.arange(1, n - revealed + 1) / (n - revealed)
            table[revealed, revealed + 1 :] = self._cost(curves, revealed, shares).mean(0)
        return table

    def _cost(
        self, curves: Float64[np.ndarray, "c a n+1"], revealed: int, shares: Float64[np.ndarray, " u"]
    ) -> Float64[np.ndarray, "c u"]:
        """The cost of revealing shares of what is masked when r positions are revealed, from the costs at the anchors:
        in cost per masked position, linear in r."""
        after = min(int(np.searchsorted(self.anchors, revealed)), len(self.anchors) - 1)
        before = max(after - 1, 0) if self.anchors[after] > revealed else after
        span = int(self.anchors[after] - self.anchors[before])
        weight = (revealed - int(self.anchors[before])) / span if span else 0.0
        cost = np.zeros((len(curves), len(shares)))
        for anchor, part in ((before, 1 - weight), (after, weight)):
            if part > 0:
                masked = self.length - int(self.anchors[anchor])
                cost = cost + part / masked * self._at(curves[:, anchor], anchor, shares)
        return cost * (self.length - revealed)


def stretched(path: Float64[np.ndarray, " m+1"], masked: int) -> Float64[np.ndarray, " k+1"]:
    """A path over m masked positions as one over another number of them, its sum in proportion.

    Args:
        path: summed log-probabilities of the first 0, 1, ..., m positions, in nats.
        masked: how many positions the result is over.
    """
    own = len(path) - 1
    if own == masked:
        return path
    return np.interp(np.arange(masked + 1) / masked, np.arange(own + 1) / own, path) * masked / own


def cross_fitted(profile: PathProfile, steps: int) -> Estimate:
    """What the best counts for a budget cost sequences that did not choose them, in nats: chosen on one half and scored
    on the other, both ways. The minimum on the very sequences that chose it is too low.

    Args:
        profile: of at least four sequences.
        steps: K.

    Raises:
        ValueError: there are fewer than four sequences.
    """
    halves = [np.arange(start, len(profile.paths), 2) for start in (0, 1)]
    chosen = [profile.part(half).likelihood_costs.best_counts(steps) for half in halves]
    scores = np.concatenate([profile.part(halves[1 - side]).sequence_costs(chosen[side]) for side in (0, 1)])
    return Estimate(float(scores.mean()), float(scores.std(ddof=1) / len(scores) ** 0.5))


def _steps(counts: Sequence[int] | Int64[np.ndarray, " k"]) -> list[tuple[int, int]]:
    """Of each step that reveals anything: how many were revealed before it, and how many it reveals."""
    numbers = np.asarray(counts)
    revealed = np.cumsum(numbers) - numbers
    return [(int(r), int(m)) for r, m in zip(revealed, numbers, strict=True) if m > 0]
