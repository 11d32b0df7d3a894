"""What is measured of a model of text."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from orders import ORDERS, walked
from trained import subject_of

from mdm_lightning.diffusion.profile.order_table import OrderTable
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.checks import ByLikelihood
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.generation.frontier import Frontier
from mdm_lightning.evaluation.generation.matched_entropy import ENTROPY, NATS, Curve
from mdm_lightning.evaluation.generation.scorers import Scorer
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.sampling.count import EntropyBounded, ProbabilityThreshold
from mdm_lightning.sampling.order import Entropy, MaxProbability, Random, RevealOrder, StaticOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.spaced import Spaced
from study_parts.advice import advised
from study_parts.samplers import ADVISED, COUNT, schedules
from study_parts.size import Size

Found = dict[str, Any]


def parts(run: Path, scorer: Callable[[], Scorer], seed: int, size: Size) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; nothing is loaded before it is asked for.

    Args:
        scorer: of generated texts, made when it is needed.

    Raises:
        UserError: later, the validation text is too short.
    """
    loaded: list[Subject] = []

    def subject() -> Subject:
        if not loaded:
            loaded.append(_placed(subject_of(str(run), seed), size))
        return loaded[0]

    return {
        "profile": lambda: profile(subject(), size),
        "likelihood": lambda: list(likelihood(subject(), size)),
        "adaptive": lambda: adaptive(subject(), size),
        "advice": lambda: advice(subject(), size),
        "frontier": lambda: frontier(subject(), scorer(), size),
    }


def _placed(subject: Subject, size: Size) -> Subject:
    """Seeds look at other sequences, as far as there are others."""
    spare = len(subject.data.validation) - size.span
    if spare < 0:
        raise UserError(f"the study looks at {size.span} validation sequences, and there are {spare + size.span}")
    return subject.starting_at(subject.seed * size.span % (spare + 1))


def profile(subject: Subject, size: Size) -> Found:
    """The loss profile, and what it says of random order in the step budgets."""
    measured, _ = Profile(sequences=size.sequences).measure(subject)
    nelbos = [measured.nelbo_of_counts(COUNT.counts(LinearSchedule(), k, measured.length)) for k in size.budgets]
    return {
        "length": measured.length,
        "revealed": measured.counts.tolist(),
        "nats": measured.values.tolist(),
        "stderr": np.sqrt(np.diag(measured.covariance)).tolist(),
        "nelbo": {str(k): [e.value / measured.length, e.stderr / measured.length]
                  for k, e in zip(size.budgets, nelbos, strict=True)},
    }  # fmt: skip


def likelihood(subject: Subject, size: Size) -> Iterator[Found]:
    """Every order, schedule and step budget, in nats per token of each sequence.

    An order that is known beforehand has a table, which is exact for all of them at once; its advised schedules are
    those of the other half of the sequences. Orders that look at predictions are walked, and their advised schedules
    are those of other sequences.
    """
    for order in ORDERS:
        if isinstance(order, StaticOrder):
            table = OrderCosts(order, anchors=subject.length, sequences=size.sequences).measure(subject)
            yield from _by_table(order, table, size)
        else:
            yield from _by_walks(order, subject, size)


def _by_table(order: StaticOrder, table: OrderTable, size: Size) -> Iterator[Found]:
    n = table.length
    for steps in size.budgets:
        for name, schedule in schedules(table.costs, steps).items():
            if name == ADVISED:
                nats = np.zeros(size.sequences)
                for half in (0, 1):
                    other = table.part(slice(1 - half, None, 2)).costs.best_beta(steps, COUNT.rounding)
                    nats[half::2] = table.part(slice(half, None, 2)).per_sequence(COUNT.counts(other, steps, n))
            else:
                nats = table.per_sequence(COUNT.counts(schedule, steps, n))
            yield _cell(order, name, describe(schedule), steps, nats / n)


def _by_walks(order: RevealOrder, subject: Subject, size: Size) -> Iterator[Found]:
    plain = Sampler(LinearSchedule(), COUNT, order)
    behind = subject.starting_at(subject.first + size.sequences)
    path = Paths(knots=size.knots, sequences=size.profile).measure(behind, plain).profiles["responses"]
    for steps in size.budgets:
        for name, schedule in schedules(path.likelihood.costs, steps).items():
            nats = walked(subject, replace(plain, schedule=schedule, steps=steps), size.walked)
            yield _cell(order, name, describe(schedule), steps, nats)


def _cell(order: RevealOrder, name: str, schedule: str, steps: int, scores: Float64[np.ndarray, " s"]) -> Found:
    return {"order": describe(order), "name": name, "schedule": schedule, "steps": steps, "scores": scores.tolist()}


def adaptive(subject: Subject, size: Size) -> list[Found]:
    """Adaptive counts, and planned ones at equal cost: as many steps as the adaptive count took passes on average,
    rounded, with linear counts in its own order, in random and in spaced order, on the same sequences."""
    counts = [(EntropyBounded(gamma), Entropy()) for gamma in size.gammas]
    counts += [(ProbabilityThreshold(threshold), MaxProbability()) for threshold in size.thresholds]
    found = []
    for count, order in counts:
        rows = list(Likelihood(Policy(Sampler(LinearSchedule(), count, order)), sequences=size.walked)(subject))
        nats, passes = (
            next(list(row.scores or ()) for row in rows if row.metric == metric)
            for metric in ("policy_nats_per_token", "forward_passes")
        )
        steps = max(1, round(float(np.mean(passes))))
        planned = {
            describe(other): walked(subject, Sampler(LinearSchedule(), COUNT, other, steps=steps), size.walked).tolist()
            for other in (order, Random(), Spaced())
        }
        one = {"count": describe(count), "order": describe(order), "scores": nats, "passes": passes, "steps": steps}
        found.append({**one, "planned": planned})
    return found


def advice(subject: Subject, size: Size) -> list[Found]:
    """What ``evaluation=advise`` says on sequences that ``likelihood`` has not seen, and what it is worth on those."""
    plain = Sampler(LinearSchedule(), COUNT, Random())
    behind = subject.starting_at(subject.first + size.sequences)
    return advised(
        behind, [plain, replace(plain, order=Spaced()), replace(plain, order=Entropy())], size.advised, size,
        ByLikelihood(), size.race, lambda sampler: walked(subject, sampler, size.walked),
    )  # fmt: skip


def frontier(subject: Subject, scorer: Scorer, size: Size) -> Found:
    """Generative frontiers."""
    found: Found = {"curves": []}
    for steps in size.frontier:
        for order in (Random(), Spaced(), Entropy()):
            sampler = Sampler(LinearSchedule(), COUNT, order, steps=steps)
            rows = list(Frontier(sampler, scorer, size.temperatures, sequences=size.texts)(subject))
            curve = Curve.of_rows(rows)
            assert curve is not None
            held_out = {row.metric: row.value for row in rows if row.settings.get("text") == "validation"}
            found["held_out"] = [held_out[ENTROPY], held_out[NATS]]
            values = {"points": list(curve.points), "entropy": curve.entropy.tolist(), "nats": curve.nats.tolist()}
            found["curves"].append({"order": describe(order), "steps": steps, **values})
    return found
