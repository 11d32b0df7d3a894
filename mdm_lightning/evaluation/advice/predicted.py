"""What the loss profile says of schedules: which one is best per step budget, before anything is generated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mdm_lightning.diffusion.profile.loss_profile import Estimate, LossProfile
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    LinearSchedule,
    MaskSchedule,
    SquaredSineSchedule,
    TabulatedSchedule,
)
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.description import describe
from mdm_lightning.files import from_json
from mdm_lightning.sampling.count import Binomial, FixedCount, RoundedCount
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.tables import markdown_table

UNCOVERED = "The theorem covers random order only; for other orders this is where a sweep should begin, and no more."


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


def advise(profile: LossProfile, sampler: Sampler, steps: int) -> Advice:
    """What the profile says of a step budget, for the sampler's count."""
    count = sampler.count
    rounded = isinstance(count, RoundedCount)
    best = profile.best_beta_of_counts(steps, count.rounding) if rounded else profile.best_beta(steps)
    schedules: list[MaskSchedule] = [best, LinearSchedule(), SquaredSineSchedule()]
    gaps = {describe(schedule): _gap(profile, sampler, schedule, steps) for schedule in schedules}
    counts = profile.best_counts(steps)
    return Advice(steps, best, gaps, profile.optimal_schedule(steps), profile.gap_of_counts(counts))


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


def advised_schedule(path: str | None, steps: int, family: Literal["beta", "optimal"] = "beta") -> MaskSchedule:
    """The schedule that an advice file holds for a step budget: what ``schedule=advised`` builds.

    Args:
        path: the ``advice.json`` that evaluation=advise wrote.
        steps: the step budget.
        family: the best Beta schedule by the loss profile, the one with the optimal counts, or the one that the check
            on other instances found.

    Raises:
        UserError: there is no such file, or it knows nothing of this budget.
    """
    if path is None:
        raise UserError("schedule=advised needs advice=FILE, an advice.json that evaluation=advise has written")
    try:
        known = from_json(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read advice={path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"advice={path} is no advice.json of evaluation=advise") from error
    if not (isinstance(known, dict) and all(budget.isdigit() for budget in known)):
        raise UserError(f"advice={path} is no advice.json of evaluation=advise")
    if str(steps) not in known:
        raise UserError(
            f"advice={path} is for {', '.join(known)} steps, not for {steps}: ask for evaluation.steps=[{steps}]"
        )
    advice = known[str(steps)]
    try:
        if family == "verified":
            advice = advice["verified"]
            return TabulatedSchedule(advice["alphas"]) if "alphas" in advice else BetaSchedule(*advice["beta"])
        return TabulatedSchedule(advice["optimal"]) if family == "optimal" else BetaSchedule(*advice["beta"])
    except KeyError as error:
        raise UserError(
            f"advice={path} has no {error.args[0]} schedule for {steps} steps: choose another schedule.family="
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"advice={path} holds no schedule for {steps} steps ({error}): make it anew") from error


def advice_table(found: Sequence[Advice], length: int) -> tuple[list[str], list[list[str]]]:
    """The advice as a header and rows of cells, gaps in nats per token of sequences of ``length`` tokens."""
    header = ["steps", "best Beta", "its gap", *list(found[0].gaps)[1:], "optimal counts"]
    rows = []
    for advice in found:
        gaps = [*advice.gaps.values(), advice.optimal_gap]
        cells = [f"{gap.value / length:.4f} ± {gap.stderr / length:.4f}" for gap in gaps]
        rows.append([str(advice.steps), f"({advice.best.alpha:.3g}, {advice.best.beta:.3g})", *cells])
    return header, rows


def advice_text(found: Sequence[Advice], length: int, sampler: Sampler, path: str) -> str:
    """The advice as a table, gaps in nats per token."""
    header, rows = advice_table(found, length)
    words = ["Predicted gap to the continuous-time NELBO, nats per token:", "", markdown_table(header, rows, left=0)]
    words += ["", f"Use it: schedule=advised advice={path} sampler.steps={found[0].steps}"]
    if not isinstance(sampler.order, Random):
        words.append(UNCOVERED)
    return "\n".join(words)


def _gap(profile: LossProfile, sampler: Sampler, schedule: MaskSchedule, steps: int) -> Estimate:
    """The gap of a predictable sampler with another schedule."""
    if isinstance(sampler.count, FixedCount):
        return profile.gap_of_counts(sampler.count.counts(schedule, steps, profile.length))
    return profile.gap(schedule, steps)


def as_json(advice: Advice) -> dict[str, object]:
    """An advice as it stands in ``advice.json``."""
    return {"beta": [advice.best.alpha, advice.best.beta], "optimal": list(advice.optimum.alphas)}
