"""Checking proposals: the race on instances that had no part in the profiles, by an evaluation that a sweep would
use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from mdm_lightning.arguments import check_numbers
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.proposals import Proposal
from mdm_lightning.evaluation.advice.race import Outcome, Race
from mdm_lightning.evaluation.base import Evaluation, Row, Subject
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.sampling.sampler import Sampler


class Check(Protocol):
    """How samplers are told apart."""

    def __call__(self, sampler: Sampler, sequences: int) -> Evaluation:
        """An evaluation of a sampler on so many instances, one of whose rows has a score for each of them."""
        ...


@dataclass(frozen=True)
class ByTask:
    """By the task's own rule, on generated responses.

    Args:
        batch_size: problems per batch.

    Raises:
        ValueError: it is not positive.
    """

    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, batch_size=1)

    def __call__(self, sampler: Sampler, sequences: int) -> Evaluation:
        return TaskAccuracy(sampler, sequences, self.batch_size)


@dataclass(frozen=True)
class ByLikelihood:
    """By what the sampler itself gives the data (``estimator=policy``): nothing is generated.

    Args:
        batch_size: sequences per batch.

    Raises:
        ValueError: it is not positive.
    """

    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, batch_size=1)

    def __call__(self, sampler: Sampler, sequences: int) -> Evaluation:
        return Likelihood(Policy(sampler), batch_size=self.batch_size, sequences=sequences)


@dataclass(frozen=True)
class Checked:
    """A step budget's proposals, and how they fared.

    Attributes:
        steps: the budget K.
        proposals: the first is the baseline.
        outcome: of the race; scores are signed so that higher is better.
        metric: what the scores are.
        sign: -1 where a lower metric is better.
        kinds: whether each proposal's score is exact or which bound; empty where that is no question.
    """

    steps: int
    proposals: Sequence[Proposal]
    outcome: Outcome
    metric: str
    sign: int
    kinds: Sequence[str]

    @property
    def use(self) -> Proposal:
        """What to use: the winner if its gain is sure, else the baseline."""
        return self.proposals[self.outcome.use]


def verify(
    race: Race, check: Check, subject: Subject, used: int, proposals: Mapping[int, Sequence[Proposal]]
) -> list[Checked]:
    """Runs a race for every step budget, on the validation sequences behind those that the profiles have used.

    Args:
        race: its rules.
        check: scores a sampler.
        used: validation sequences from ``subject.first`` on that are used up.
        proposals: by step budget.

    Raises:
        UserError: hardly any validation sequences are left.
    """
    first = subject.first + used
    available = len(subject.data.validation) - first
    if available < 20:
        raise UserError(
            f"checking the advice needs other validation sequences than the {used} behind it, and data="
            f"{subject.data.name} has {max(available, 0)} left: set evaluation.advise.race=null to go by prediction, "
            "fewer evaluation.sequences=, or a larger data.validation="
        )
    found = []
    for steps, candidates in proposals.items():
        rows: dict[int, Row] = {}

        def measure(number: int, start: int, n: int, candidates=candidates, rows=rows) -> Float64[np.ndarray, " n"]:
            row = rows[number] = _score(check, candidates[number], subject.starting_at(start), n)
            return np.asarray(row.scores) * (1 if row.better == "higher" else -1)

        outcome = race.run(len(candidates), measure, first, available)
        kinds = [str(rows[number].settings.get("likelihood", "")) for number in range(len(candidates))]
        sign = 1 if rows[0].better == "higher" else -1
        found.append(Checked(steps, candidates, outcome, rows[0].metric, sign, kinds))
    return found


def _score(check: Check, candidate: Proposal, subject: Subject, n: int) -> Row:
    """The row by which an evaluation judges: the first that says which way is better and has a score per instance."""
    for row in check(candidate.sampler, n)(subject):
        if row.better is not None and row.scores is not None:
            return row
    raise UserError(f"{type(check).__name__} has no score for single instances and cannot check advice")
