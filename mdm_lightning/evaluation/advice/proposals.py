"""Proposals for a step budget: what each profile thinks best, with both roundings, beside the linear schedule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mdm_lightning.diffusion.profile.counts import schedule_of_counts
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import LinearSchedule, MaskSchedule, TabulatedSchedule
from mdm_lightning.evaluation.description import describe
from mdm_lightning.sampling.count import Expected, FixedCount, LargestRemainder, RevealCount
from mdm_lightning.sampling.sampler import Sampler

ROUNDINGS = (Expected(), LargestRemainder())


@dataclass(frozen=True)
class Proposal:
    """A sampler for a step budget.

    Attributes:
        sampler: the whole sampler.
        sources: who proposes it.
        counts: positions per step of a block of reference length; None where chance decides.
        name: by which the sampler is told from those of other orders; by default its order.
    """

    sampler: Sampler
    sources: tuple[str, ...]
    counts: tuple[int, ...] | None
    name: str = ""

    @property
    def order(self) -> str:
        """The name."""
        return self.name or describe(self.sampler.order)

    @property
    def label(self) -> str:
        """Order, schedule and rounding in words."""
        schedule = self.sampler.schedule
        if isinstance(schedule, TabulatedSchedule) and self.counts is not None:
            return f"{self.order} with counts " + "+".join(str(count) for count in self.counts)
        return f"{self.order} with {describe(schedule)}, {describe(self.sampler.count)}"

    def passes(self, blocks: int) -> int:
        """Forward passes per sequence, at most."""
        steps = self.sampler.steps or 1
        planned = steps if self.counts is None else blocks * sum(count > 0 for count in self.counts)
        return planned * self.sampler.guidance.passes


def propose(
    sampler: Sampler, steps: int, costs: Mapping[str, StepCosts], length: int, blocks: int = 1
) -> list[Proposal]:
    """The candidates for a budget, without repetition; the first is the linear schedule with the sampler's own count.

    Args:
        sampler: gives everything but schedule, count and budget.
        steps: K, for the whole sequence.
        costs: what each profile says a step costs, by name.
        length: positions of a sequence, or of a block.
        blocks: per sequence; each gets K // blocks steps.
    """
    own_steps = max(1, steps // blocks)
    found: dict[object, Proposal] = {}

    def add(schedule: MaskSchedule, count: RevealCount, source: str) -> None:
        counts = tuple(count.counts(schedule, own_steps, length).tolist()) if isinstance(count, FixedCount) else None
        # Steps that reveal nothing cost nothing: without them, equal counts are one candidate.
        key = tuple(m for m in counts if m) if counts is not None else (schedule, count)
        known = found.get(key)
        if known is not None:
            sources = dict.fromkeys([*known.sources, source])
            found[key] = replace(known, sources=tuple(sources))
        else:
            found[key] = Proposal(replace(sampler, schedule=schedule, count=count, steps=steps), (source,), counts)

    for count in dict.fromkeys([sampler.count, *ROUNDINGS]):
        add(LinearSchedule(), count, "linear")
    for name, cost in costs.items():
        for rounding in ROUNDINGS:
            add(cost.best_beta(own_steps, rounding.rounding), rounding, name)
        add(schedule_of_counts(cost.best_counts(own_steps)), Expected(), name)
    return list(found.values())


def shortlist(proposals: Sequence[Proposal], costs: Mapping[str, StepCosts], most: int) -> list[Proposal]:
    """The best proposals of an order by its own predictions: the first choice of each profile, then the second, and so
    on. What no profile predicts comes last."""

    def ranked(cost: StepCosts) -> list[Proposal]:
        return sorted(proposals, key=lambda one: math.inf if one.counts is None else cost.score(one.counts))

    chosen: dict[int, Proposal] = {}
    for tier in zip(*map(ranked, costs.values()), strict=True):
        chosen |= {id(one): one for one in tier}
    return list(chosen.values())[:most]
