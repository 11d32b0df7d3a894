"""The advice of ``evaluation=advise``, its race, and what it is worth on instances that it has not seen."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from mdm_lightning.evaluation.advice.advise import Advise
from mdm_lightning.evaluation.advice.checks import Check, Checked
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.advice.verdicts import verdict
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.sampling.sampler import Sampler
from study_parts.size import Size

Score = Callable[[Sampler], Float64[np.ndarray, " s"]]


def advised(
    subject: Subject, samplers: Sequence[Sampler], budgets: Sequence[int], size: Size, check: Check, race: int,
    score: Score,
) -> list[dict[str, Any]]:  # fmt: skip
    """For every budget what to use of the samplers, the first being the baseline.

    Args:
        check: what the race goes by.
        race: its instances, and as many to confirm its winner.
        score: what the sampler that it ends with is worth elsewhere, instance by instance.
    """
    rules = Race(instances=race, first=min(32, race), confirm=race)
    advise = Advise(
        Profile(sequences=size.profile), samplers[0], budgets, Paths(size.knots, size.profile), rules, check, check,
        samplers[1:], racers=size.racers,
    )  # fmt: skip
    return [_found(checked, score) for checked in advise.find(subject).checked]


def _found(checked: Checked, score: Score) -> dict[str, Any]:
    use, outcome = checked.use, checked.outcome
    confirmed = outcome.confirmation
    return {
        "steps": checked.steps,
        "use": use.label,
        "order": use.order,
        "schedule": describe(use.sampler.schedule),
        "sources": use.sources,
        "gain": None if confirmed is None else [confirmed.gain, confirmed.stderr, confirmed.n],
        "p": None if confirmed is None else confirmed.p,
        "sure": outcome.sure,
        "verdict": verdict(checked),
        "racers": [[one.label, checked.sign * runner.mean, len(runner.scores), runner.left]
                   for one, runner in zip(checked.proposals, outcome.runners, strict=True)],
        "passes": outcome.evaluations * checked.steps,
        "scores": score(use.sampler).tolist(),
    }  # fmt: skip
