"""One cell of ``advice.py``: a task, an order, a step budget."""

import argparse
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, MaskSchedule
from mdm_lightning.evaluation.advice.checks import ByTask, verify
from mdm_lightning.evaluation.advice.proposals import ROUNDINGS, Proposal, propose
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.advice.verdicts import verdict
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.statistics import rank_correlation, sign_flip_test, standard_error
from mdm_lightning.sampling.sampler import Sampler

PARAMETERS = (0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5)
BATCH = 250


def grid(sampler: Sampler, steps: int, length: int, most: int) -> list[Proposal]:
    """The linear and Beta schedules with both roundings, without repetition of counts, linear first; of more than
    ``most``, so many that are evenly spread over the list."""
    schedules: list[MaskSchedule] = [LinearSchedule(), *(BetaSchedule(a, b) for a in PARAMETERS for b in PARAMETERS)]
    found: dict[tuple[int, ...], Proposal] = {}
    for schedule, count in itertools.product(schedules, ROUNDINGS):
        counts = tuple(count.counts(schedule, steps, length).tolist())
        chosen = replace(sampler, schedule=schedule, count=count, steps=steps)
        found.setdefault(_passes(counts), Proposal(chosen, ("grid",), counts))
    every = list(found.values())
    if len(every) <= most:
        return every
    return [every[i] for i in np.linspace(0, len(every) - 1, most).round().astype(int)]


@dataclass
class Solved:
    """Which problems schedules solve; equal counts are measured once."""

    subject: Subject
    first: int
    problems: int
    _found: dict[tuple[int, ...], Float64[np.ndarray, " s"]] = field(default_factory=dict)

    def __call__(self, proposal: Proposal) -> Float64[np.ndarray, " s"]:
        """1 where a problem is solved."""
        key = _passes(proposal.counts or ())
        if key not in self._found:
            rows = TaskAccuracy(proposal.sampler, self.problems, BATCH)(self.subject.starting_at(self.first))
            scores = next(row.scores for row in rows if row.metric == "accuracy")
            self._found[key] = np.array(scores)
        return self._found[key]


def measure(
    subject: Subject, sampler: Sampler, costs: Mapping[str, StepCosts], steps: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The grid, what each predictor says of it, and the advice; the profiles have used the first problems."""
    length = next(iter(costs.values())).length
    candidates = grid(sampler, steps, length, options.schedules)
    on_grid = Solved(subject, options.profile, options.problems)
    fresh = Solved(subject, options.profile + options.problems, options.fresh)
    scores = [float(on_grid(candidate).mean()) for candidate in candidates]
    best, linear = candidates[int(np.argmax(scores))], candidates[0]
    predictors = {}
    for name, cost in costs.items():
        predicted = [cost.score(np.array(candidate.counts)) for candidate in candidates]
        choice = candidates[int(np.argmin(predicted))]
        correlation = rank_correlation([-value for value in predicted], scores)
        regret = fresh(best).mean() - fresh(choice).mean()
        predictors[name] = {"spearman": correlation, "choice": choice.label, "regret": float(regret)}
    # The advice sees neither the grid's problems nor those on which all are compared.
    behind = options.profile + options.problems + options.fresh
    race = Race(instances=options.race, first=50, confirm=options.race)
    proposals = propose(sampler, steps, costs, length)
    (checked,) = verify(race, ByTask(BATCH), subject, behind, {steps: proposals})
    gain, regret = fresh(checked.use) - fresh(linear), fresh(best) - fresh(checked.use)
    return {
        "grid": [[one.label, one.counts, score] for one, score in zip(candidates, scores, strict=True)],
        "predictors": predictors,
        "linear": float(fresh(linear).mean()),
        "best": float(fresh(best).mean()),
        "best_label": best.label,
        "advice": float(fresh(checked.use).mean()),
        "advice_label": checked.use.label,
        "sources": checked.use.sources,
        "gain": float(gain.mean()),
        "gain_stderr": standard_error(gain.tolist()),
        "p": float(sign_flip_test(gain[None])[0]) if gain.any() else 1.0,
        "regret": float(regret.mean()),
        "regret_stderr": standard_error(regret.tolist()),
        "verdict": verdict(checked),
        "check_passes": checked.outcome.evaluations * steps,
        "grid_passes": sum(options.problems * len(_passes(candidate.counts or ())) for candidate in candidates),
    }  # fmt: skip


def _passes(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Without the steps that reveal nothing, which cost no forward pass."""
    return tuple(count for count in counts if count)
