"""What is measured of a model of a task with checked answers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from orders import ORDERS
from trained import subject_of

from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.evaluation.advice.checks import ByTask
from mdm_lightning.evaluation.advice.costs import measure_costs
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.sampling.order import MaxProbability, Random
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.spaced import Spaced
from mdm_lightning.sampling.tokens import TokenSampler
from study_parts.advice import advised
from study_parts.samplers import COUNT, positions, schedules
from study_parts.size import Size

BATCH = 250
TEMPERATURES = (0.0, 1.0)


def parts(run: Path, seed: int, size: Size) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; nothing is loaded before it is asked for. The problems are those of the seed."""
    loaded: list[Subject] = []

    def subject() -> Subject:
        if not loaded:
            loaded.append(subject_of(str(run), seed))
        return loaded[0]

    return {
        "accuracy": lambda: list(accuracy(subject(), size)),
        "advice": lambda: advice(subject(), size),
    }


def solved(subject: Subject, sampler: Sampler, problems: int) -> Float64[np.ndarray, " s"]:
    """1 where a problem is solved."""
    rows = TaskAccuracy(sampler, problems, BATCH)(subject)
    return np.array(next(row.scores for row in rows if row.metric == "accuracy"))


def accuracy(subject: Subject, size: Size) -> Iterator[dict[str, Any]]:
    """Every order, schedule and step budget at both temperatures: which of the first problems are solved. Advised
    schedules are those of other problems. Equal counts are measured once."""
    n = positions(subject)
    for temperature in TEMPERATURES:
        for order in ORDERS:
            plain = Sampler(LinearSchedule(), COUNT, order, TokenSampler(temperature=temperature))
            costs = _costs(subject.starting_at(size.problems), plain, size)
            for steps in size.task_budgets:
                known: dict[tuple[int, ...], list[float]] = {}
                for name, schedule in schedules(costs, steps).items():
                    counts = tuple(m for m in COUNT.counts(schedule, steps, n).tolist() if m)
                    if counts not in known:
                        sampler = replace(plain, schedule=schedule, steps=steps)
                        known[counts] = solved(subject, sampler, size.problems).tolist()
                    label = f"{describe(order)}, temperature {temperature:g}"
                    cell = {"order": label, "name": name, "schedule": describe(schedule), "steps": steps}
                    yield {**cell, "scores": known[counts]}


def _costs(subject: Subject, sampler: Sampler, size: Size) -> StepCosts:
    """Of the profile that suits the order: of several, the share of problems that is solved along true responses."""
    measured = measure_costs(sampler, Profile(sequences=size.profile), Paths(size.knots, size.profile), subject)
    by_name = measured.averages
    return by_name.get("path of responses, solved") or next(iter(by_name.values()))


def advice(subject: Subject, size: Size) -> list[dict[str, Any]]:
    """What ``evaluation=advise`` says on other problems than ``accuracy`` has seen, and what it is worth on those."""
    plain = Sampler(LinearSchedule(), COUNT, Random())
    confident = replace(plain, order=MaxProbability(), tokens=TokenSampler(temperature=0.0))
    return advised(
        subject.starting_at(size.problems), [plain, replace(plain, order=Spaced()), confident], size.task_budgets, size,
        ByTask(BATCH), size.task_race, lambda sampler: solved(subject, sampler, size.problems),
    )  # fmt: skip
