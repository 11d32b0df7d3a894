"""What a step costs, and what follows from it: the best counts, the best Beta schedule, the score of either.

Everything that predicts schedules (loss profile, table of a static order, path profile) says what it costs to reveal m
positions at once when r of n are revealed, C(r, m). A step budget then costs the sum over its steps, so the best of all
counts per step is a dynamic programme, V_k(r) = min over m of C(r, m) + V_{k-1}(r + m), and the best Beta schedule a
search over two parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.diffusion.profile.beta_search import best_beta, beta_alphas
from mdm_lightning.diffusion.profile.counts import check_steps
from mdm_lightning.diffusion.schedule import BetaSchedule

Rounding = Callable[[Float64[np.ndarray, "p k+1"], int], Int64[np.ndarray, "p k"]]
"""Numbers per step that sum to n, for each of p schedules given as alpha at the beginning and end of every step."""


@dataclass(frozen=True, eq=False, repr=False)
class StepCosts:
    """C(r, m) for all r and m.

    Args:
        costs: entry (r, r + m) is the cost of revealing m positions at once when r of n are revealed; entries that lead
            nowhere (m <= 0) are not read.

    Raises:
        ValueError: the shape is not (n, n + 1), or a cost is NaN or minus infinity.
    """

    costs: Float64[np.ndarray, "n n+1"]

    def __post_init__(self) -> None:
        n = len(self.costs)
        if n < 1 or self.costs.shape != (n, n + 1):
            raise ValueError(f"StepCosts: costs must have shape (n, n + 1), got {self.costs.shape}")
        forward = np.triu(np.ones((n, n + 1), dtype=bool), 1)
        if np.isnan(self.costs[forward]).any() or (self.costs[forward] == -np.inf).any():
            raise ValueError("StepCosts: there must be a cost for every step")
        object.__setattr__(self, "costs", np.where(forward, self.costs, np.inf))

    def __repr__(self) -> str:
        return f"StepCosts({self.length} positions)"

    @classmethod
    def per_position(cls, costs: Float64[np.ndarray, " n"]) -> "StepCosts":
        """C(r, m) = m h_r, for positions in random order: h_r is the loss profile."""
        n = len(costs)
        return cls((np.arange(n + 1) - np.arange(n)[:, None]) * costs[:, None])

    @property
    def length(self) -> int:
        """n."""
        return len(self.costs)

    def score(self, counts: Sequence[int] | Int64[np.ndarray, " k"]) -> float:
        """The cost of revealing so many positions at each step.

        Raises:
            ValueError: the counts do not sum to n.
        """
        return float(self.scores(np.asarray(counts, dtype=np.int64)[None])[0])

    def scores(self, counts: Int64[np.ndarray, "p k"]) -> Float64[np.ndarray, " p"]:
        """The cost of each of p rows of counts.

        Raises:
            ValueError: they do not sum to n.
        """
        if (counts < 0).any() or (counts.sum(1) != self.length).any():
            raise ValueError(f"StepCosts: the counts must sum to the length {self.length}")
        after = counts.cumsum(1)
        before = np.minimum(after - counts, self.length - 1)
        return np.where(counts > 0, self.costs[before, after], 0.0).sum(1)

    def best_counts(self, steps: int) -> Int64[np.ndarray, " k"]:
        """The counts of least cost: no schedule can do better. O(K n^2); no shape of C is assumed.

        Of equally good counts it returns one with the fewest non-empty steps, which come first; steps that are of no
        use stay empty. Being chosen by measured costs, they profit from the errors of these.

        Raises:
            ValueError: there is not at least one step.
        """
        check_steps(steps)
        n = self.length
        # Least cost of going from r to n in exactly so many non-empty steps, and the first stop on that way.
        to_go, stops, totals = np.append(np.full(n, np.inf), 0.0), [], []
        for _ in range(min(steps, n)):
            ways = self.costs + to_go
            stops.append(ways.argmin(axis=1))
            to_go = np.append(ways[np.arange(n), stops[-1]], np.inf)
            totals.append(to_go[0])
        counts = np.zeros(steps, dtype=np.int64)
        if np.isinf(totals).all():  # whatever is done
            counts[0] = n
            return counts
        path = [0]
        for stop in reversed(stops[: int(np.argmin(totals)) + 1]):
            path.append(int(stop[path[-1]]))
        counts[: len(path) - 1] = np.diff(path)
        return counts

    def best_beta(
        self,
        steps: int,
        rounding: Rounding,
        *candidates: BetaSchedule,
        lowest: float = 0.05,
        highest: float = 20.0,
    ) -> BetaSchedule:
        """The Beta schedule whose counts have the least cost, its parameters within a range.

        Args:
            steps: K.
            rounding: how a schedule's shares become counts, which matters as much as the parameters.
            candidates: schedules to begin with; the result is at least as good.

        Raises:
            ValueError: there is not at least one step.
        """
        check_steps(steps)

        def scores(parameters: Float64[np.ndarray, "p 2"]) -> Float64[np.ndarray, " p"]:
            return self.scores(rounding(beta_alphas(parameters, steps), self.length))

        return best_beta(scores, lowest, highest, *candidates)
