"""What the loss profile says of schedules: which one is best per step budget, before anything is generated."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from mdm_lightning.diffusion.profile.counts import schedule_of_counts
from mdm_lightning.diffusion.profile.cross_fitting import Estimate, cross_fitted
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    LinearSchedule,
    MaskSchedule,
    SquaredSineSchedule,
    TabulatedSchedule,
)
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.description import configuration, describe
from mdm_lightning.files import from_json
from mdm_lightning.sampling.count import Binomial, FixedCount, RoundedCount
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.tables import markdown_table

MODEL = "model"
"""Beside the step budgets of an ``advice.json``: the name and the fingerprint of what it was found for."""


class Advice(NamedTuple):
    """What the profile says of one step budget. Gaps are in nats per sequence."""

    steps: int
    best: BetaSchedule
    """The Beta schedule of least gap."""
    gaps: dict[str, Estimate]
    """Of the best Beta schedule and of the schedules to compare it with."""
    optimum: TabulatedSchedule
    """The schedule whose expected counts have the least gap of all."""
    optimal_gap: Estimate
    cross_fitted: bool
    """Whether the gaps of what was chosen, the best Beta schedule and the optimal counts, are those of choices that
    other sequences made. Else they are those of the very sequences that chose, and too low."""


def advise(profile: LossProfile, sampler: Sampler, steps: int) -> Advice:
    """What the profile says of a step budget, for the sampler's count."""
    best, counts = _best_beta(profile, sampler, steps), profile.best_counts(steps)
    schedules: list[MaskSchedule] = [best, LinearSchedule(), SquaredSineSchedule()]
    gaps = {describe(schedule): _gap(profile, sampler, schedule, steps) for schedule in schedules}
    optimal = profile.gap_of_counts(counts)
    known = profile.scores is not None and len(profile.scores) >= 4
    if known:
        optimal = profile.cross_fitted_gap(lambda costs: costs.best_counts(steps))
        gaps[describe(best)] = cross_fitted(
            profile,
            lambda half: _best_beta(half, sampler, steps),
            lambda half, schedule: _gap_per_sequence(half, sampler, schedule, steps),
        )
    return Advice(steps, best, gaps, schedule_of_counts(counts), optimal, known)


def predicted_gap(profile: LossProfile, sampler: Sampler, steps: int | None) -> Estimate | None:
    """What a sampler's step budget costs by the profile, in nats per sequence.

    None where a profile says nothing: adaptive counts, remasking, blocks. For orders other than Random the number is a
    guess that no theorem covers.
    """
    return _gap(profile, sampler, sampler.schedule, steps or profile.length) if predictable(sampler) else None


def predictable(sampler: Sampler) -> bool:
    """Whether a profile says anything of a sampler's count: not of adaptive counts, remasking, blocks."""
    return sampler.blocks.length is None and isinstance(sampler.count, Binomial | FixedCount)


def gap_row(gap: Estimate, length: int, sequences: int, settings: dict[str, str | int | float]) -> Row:
    """A predicted gap as a row, in nats per token."""
    return Row("predicted_gap", gap.value / length, gap.stderr / length, sequences, settings, "lower")


def predicted_rows(found: Sequence[Advice], length: int, sequences: int, data: str) -> Iterator[Row]:
    """The gaps of an advice as rows."""
    for advice in found:
        for schedule, gap in {**advice.gaps, "optimal counts": advice.optimal_gap}.items():
            chosen = schedule in (describe(advice.best), "optimal counts")
            how = "given" if not chosen else "cross-fitted" if advice.cross_fitted else "on the same sequences"
            settings = {"data": data, "steps": advice.steps, "schedule": schedule, "chosen": how}
            yield gap_row(gap, length, sequences, settings)


def advice_table(found: Sequence[Advice], length: int) -> tuple[list[str], list[list[str]]]:
    """The advice as a header and rows of cells, gaps in nats per token of sequences of ``length`` tokens."""
    header = ["steps", "best Beta", "its gap", *list(found[0].gaps)[1:], "optimal counts"]
    rows = []
    for advice in found:
        gaps = [*advice.gaps.values(), advice.optimal_gap]
        cells = [f"{gap.value / length:.4f} ± {gap.stderr / length:.4f}" for gap in gaps]
        rows.append([str(advice.steps), f"({advice.best.alpha:.3g}, {advice.best.beta:.3g})", *cells])
    return header, rows


def advice_heading(found: Sequence[Advice]) -> str:
    """What the table's numbers are."""
    chosen = (
        "chosen on one half of the sequences and scored on the other, both ways"
        if all(advice.cross_fitted for advice in found)
        else "on the very sequences that chose them: a little too low"
    )
    return (
        "Predicted gap to the continuous-time NELBO in random order, nats per token (best Beta and optimal counts: "
        f"{chosen}):"
    )


def advice_text(found: Sequence[Advice], length: int) -> str:
    """The advice as a table, gaps in nats per token."""
    header, rows = advice_table(found, length)
    return "\n".join([advice_heading(found), "", markdown_table(header, rows, left=0)])


def _best_beta(profile: LossProfile, sampler: Sampler, steps: int) -> BetaSchedule:
    """The best Beta schedule for the sampler's count."""
    if isinstance(sampler.count, RoundedCount):
        return profile.best_beta_of_counts(steps, sampler.count.rounding)
    return profile.best_beta(steps)


def _gap_per_sequence(
    profile: LossProfile, sampler: Sampler, schedule: MaskSchedule, steps: int
) -> Float64[np.ndarray, " s"]:
    """``_gap`` of each sequence."""
    if isinstance(sampler.count, FixedCount):
        counts = sampler.count.counts(schedule, steps, profile.length)
        return profile.gap_to_singly(counts)
    return profile.gap_per_sequence(schedule, steps)


def _gap(profile: LossProfile, sampler: Sampler, schedule: MaskSchedule, steps: int) -> Estimate:
    """The gap of a predictable sampler with another schedule."""
    if isinstance(sampler.count, FixedCount):
        return profile.gap_of_counts(sampler.count.counts(schedule, steps, profile.length))
    return profile.gap(schedule, steps)


def as_json(advice: Advice) -> dict[str, object]:
    """An advice as it stands in ``advice.json``, for ``schedule=advised``."""
    return {"beta": [advice.best.alpha, advice.best.beta], "optimal": list(advice.optimum.alphas)}


def taken(sampler: Sampler) -> dict[str, object]:
    """The sampler to use as it stands in ``advice.json``, for ``sampler=advised``; nothing where a part of it, of a
    class of somebody's own, does not say how it was made."""
    try:
        return {"sampler": configuration(sampler)}
    except ValueError:
        return {}


def read_advice(path: str | None, steps: int, option: str) -> Mapping[str, Any]:
    """What an advice file says of a step budget.

    Args:
        path: the ``advice.json`` that evaluation=advise wrote.
        steps: the step budget.
        option: what asks for it, for messages.

    Raises:
        UserError: there is no such file, or it knows nothing of this budget.
    """
    if path is None:
        raise UserError(f"{option} needs advice=FILE, an advice.json that evaluation=advise has written")
    known = _parts(path)
    budgets = [budget for budget in known if budget != MODEL]
    if str(steps) not in budgets:
        raise UserError(
            f"advice={path} is for {', '.join(budgets)} steps, not for {steps}: choose one of these by sampler.steps=, "
            f"or ask for evaluation=advise evaluation.steps=[{steps}]"
        )
    return known[str(steps)]


def advised_model(path: str) -> tuple[str, str] | None:
    """The name and the fingerprint of the model that an advice was found for; None where an older file does not say.

    Raises:
        UserError: there is no such file.
    """
    model = _parts(path).get(MODEL)
    return None if model is None else (str(model.get("name")), str(model.get("fingerprint")))


def _parts(path: str) -> Mapping[str, Mapping[str, Any]]:
    """What a file says of each budget, and of its model."""
    try:
        known = from_json(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read advice={path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"advice={path} is no advice.json of evaluation=advise") from error
    good = isinstance(known, dict) and all(isinstance(part, dict) for part in known.values())
    if not (good and {*known} - {MODEL} and all(budget.isdigit() for budget in {*known} - {MODEL})):
        raise UserError(f"advice={path} is no advice.json of evaluation=advise")
    return known


def advised_schedule(path: str | None, steps: int, family: Literal["beta", "optimal"] = "beta") -> MaskSchedule:
    """The schedule that an advice file holds for a step budget: what ``schedule=advised`` builds.

    Args:
        path: the ``advice.json`` that evaluation=advise wrote.
        steps: the step budget.
        family: the best Beta schedule by the loss profile, or the one with the optimal counts.

    Raises:
        UserError: there is no such file, or it knows nothing of this budget.
    """
    advice = read_advice(path, steps, "schedule=advised")
    try:
        if family == "optimal":
            return TabulatedSchedule(advice["optimal"])
        alpha, beta = advice["beta"]
        return BetaSchedule(alpha, beta)
    except KeyError as error:
        raise UserError(
            f"advice={path} has no {error.args[0]} schedule for {steps} steps, which only random order has: take "
            "sampler=advised"
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"advice={path} holds no schedule for {steps} steps ({error}): make it anew") from error
