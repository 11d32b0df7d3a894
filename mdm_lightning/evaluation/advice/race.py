"""A race of candidates: paired scores on the same instances, the losers leave early, and fresh instances confirm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.evaluation.statistics import normal_interval, sign_flip_test

Measure = Callable[[int, int, int], Float64[np.ndarray, " n"]]
"""Scores of a candidate (by number) on n instances from a first one on; higher is better."""


class Runner(NamedTuple):
    """How a candidate did in the race."""

    scores: Float64[np.ndarray, " n"]
    """On the instances before it left."""
    left: bool
    """It left after these, significantly behind the leader."""

    @property
    def mean(self) -> float:
        return float(self.scores.mean())


class Confirmation(NamedTuple):
    """The winner against the baseline, on instances that had no part in choosing it: the gain is not flattered."""

    gain: float
    """Mean paired difference, higher being better."""
    stderr: float
    low: float
    """End of a 95 % interval of the gain, as is ``high``."""
    high: float
    p: float
    """One-sided, of a permutation test: how often a winner no better than the baseline would do so well."""
    winner: float
    """Mean score."""
    baseline: float
    n: int


class Outcome(NamedTuple):
    """What a race found."""

    runners: Sequence[Runner]
    """One per candidate."""
    winner: int
    """The leader at the end of the race; the baseline, number 0, where nothing is ahead of it."""
    confirmation: Confirmation | None
    """None where the baseline won."""
    evaluations: int
    """Instances that were scored, over all candidates: the cost."""
    sure: bool
    """Whether the winner's gain over the baseline is significant at the level of the race."""

    @property
    def use(self) -> int:
        """The candidate to use: the winner if that is sure, else the baseline."""
        return self.winner if self.sure else 0


@dataclass(frozen=True)
class Race:
    """Candidates are scored on the same instances, in rounds that double the number; after each, those that are
    significantly behind the leader leave. The last leader is then compared with the baseline on fresh instances.

    With probability at least 1 - ``level`` the best candidate does not leave (Bonferroni's correction for all pairs
    with it and all rounds, of paired permutation tests), and with probability at least 1 - ``level`` a winner that is
    no better than the baseline is not called better.

    Args:
        instances: on which the race is run, at most.
        first: instances of the first round.
        confirm: fresh instances for the winner and the baseline.
        level: of both errors.
        budget: scored instances over all candidates, at most; the race ends early when they are used up, keeping enough
            to confirm. None for no limit.

    Raises:
        ValueError: a number is out of range.
    """

    instances: int = 200
    first: int = 50
    confirm: int = 200
    level: float = 0.05
    budget: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, instances=2, first=2, confirm=2, budget=1)
        check(self, "level", 0 < self.level < 1, "between 0 and 1")

    def split(self, available: int) -> tuple[int, int]:
        """How many of the available instances are for the race, and how many behind them for the confirmation."""
        share = min(1.0, available / (self.instances + self.confirm))
        return max(2, int(self.instances * share)), max(2, int(self.confirm * share))

    def run(self, candidates: int, measure: Measure, first: int, available: int) -> Outcome:
        """Runs it.

        Args:
            candidates: how many; number 0 is the baseline.
            measure: scores a candidate.
            first: index of the first instance.
            available: instances from there on. Where they are fewer than asked for, race and confirmation share them in
                proportion.

        Raises:
            ValueError: there are fewer than four instances, or no candidate.
        """
        if available < 4 or candidates < 1:
            raise ValueError(f"Race: needs a candidate and four instances, got {candidates} and {available}")
        instances, confirm = self.split(available)
        scores: list[list[Float64[np.ndarray, " n"]]] = [[] for _ in range(candidates)]
        running, spent, done = list(range(candidates)), 0, 0
        rounds = _rounds(instances, min(self.first, instances))
        for end in rounds:
            affordable = self._affords(spent + len(running) * (end - done) + 2 * confirm)
            if done and (len(running) == 1 or not affordable):
                break
            for number in running:
                scores[number].append(measure(number, first + done, end - done))
            spent, done = spent + len(running) * (end - done), end
            running = self._keep(running, {n: np.concatenate(scores[n]) for n in running}, candidates, len(rounds))
        runners = [Runner(np.concatenate(own), number not in running) for number, own in enumerate(scores)]
        winner = max(running, key=lambda number: (runners[number].mean, -number))
        if winner == 0:
            return Outcome(runners, 0, None, spent, False)
        # Behind the instances of the race, whether all rounds were run or not.
        both = [measure(number, first + instances, confirm) for number in (winner, 0)]
        confirmation = _confirmation(*both)
        return Outcome(runners, winner, confirmation, spent + 2 * confirm, confirmation.p < self.level)

    def _affords(self, evaluations: int) -> bool:
        return self.budget is None or evaluations <= self.budget

    def _keep(
        self, running: Sequence[int], scores: dict[int, Float64[np.ndarray, " n"]], candidates: int, rounds: int
    ) -> list[int]:
        """Those that are not significantly behind the leader."""
        leader = max(running, key=lambda number: (scores[number].mean(), -number))
        behind = np.stack([scores[number] - scores[leader] for number in running])
        # A p-value of the permutation test cannot be below 1 / (1 + resamples): enough of them for the corrected level.
        level = self.level / max(1, (candidates - 1) * rounds)
        p = sign_flip_test(behind, resamples=max(2_000, int(10 / level))) / 2
        return [n for n, of_n, d in zip(running, p, behind, strict=True) if not (of_n < level and d.mean() < 0)]


def _rounds(instances: int, first: int) -> list[int]:
    """Numbers of instances at the end of each round: doubling up to all."""
    ends = [first]
    while ends[-1] < instances:
        ends.append(min(2 * ends[-1], instances))
    return ends


def _confirmation(winner: Float64[np.ndarray, " n"], baseline: Float64[np.ndarray, " n"]) -> Confirmation:
    difference = winner - baseline
    gain, n = float(difference.mean()), len(difference)
    stderr = float(difference.std(ddof=1) / n**0.5)
    two_sided = float(sign_flip_test(difference[None])[0])
    p = two_sided / 2 if gain > 0 else 1 - two_sided / 2
    interval = normal_interval(np.array([gain]), np.array([stderr]))
    ends = float(interval.low[0]), float(interval.high[0])
    return Confirmation(gain, stderr, *ends, p, float(winner.mean()), float(baseline.mean()), n)
