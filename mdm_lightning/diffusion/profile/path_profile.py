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

Likelihoods of a sampler's own path, and their dependence on the sizes of steps: Wen, Liang & Lu (2026,
arXiv:2608.25505).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.diffusion.profile.anchored_costs import AnchoredCosts, SolvedCosts
from mdm_lightning.diffusion.profile.cross_fitting import Counts, Estimate


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
        owners: as of ``AnchoredCosts``, where rows are blocks.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    anchors: Int64[np.ndarray, " a"]
    paths: Float64[np.ndarray, "s a n+1"]
    solid: Float64[np.ndarray, "s a"]
    owners: Int64[np.ndarray, " s"] | None = None

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

    @cached_property
    def likelihood(self) -> AnchoredCosts:
        """Nats that steps cost on average."""
        return AnchoredCosts(self.anchors, -self.paths, self.owners)

    @cached_property
    def solved(self) -> SolvedCosts:
        """-log of the share of sequences that steps leave intact, in nats: for problems with one right answer."""
        return SolvedCosts(self.anchors, -self.paths, self.owners)

    def predicted_accuracy(self, counts: Counts, *, greedy: bool) -> Estimate:
        """The share of sequences that come out as they are, with its standard error over sequences.

        It means something where a problem has one right answer and the sequences are these answers. Where the counts
        are those of the reference walk it is exact; where tokens are the most probable ones, each step is read at the
        nearest anchor.

        Args:
            counts: positions revealed at each step, n in all.
            greedy: tokens are the most probable ones; otherwise they are drawn.
        """
        if not greedy:
            return Estimate.of(np.exp(-self.likelihood.per_row(counts)))
        numbers = np.asarray(counts)
        intact = np.ones(len(self.paths))
        for revealed, count in zip(np.cumsum(numbers) - numbers, numbers, strict=True):
            if count:
                anchor = int(np.abs(self.anchors - revealed).argmin())
                intact *= count / (self.length - revealed) <= self.solid[:, anchor] + 1e-9
        return Estimate.of(intact)


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
