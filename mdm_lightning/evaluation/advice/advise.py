"""`evaluation=advise`: which order and schedule to use per step budget, proposed by profiles and checked on other
instances."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice import predicted, verdicts
from mdm_lightning.evaluation.advice.checks import Check, Checked, verify
from mdm_lightning.evaluation.advice.costs import Costs, measure_costs, prediction_rows, predictions
from mdm_lightning.evaluation.advice.figures import grid_figure, landscape_figure, race_figure
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.predicted import Advice, advice_text, advise, predicted_rows
from mdm_lightning.evaluation.advice.proposals import Proposal, propose, shortlist
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.description import told_apart
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.files import to_json
from mdm_lightning.sampling.order import Random, RevealOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import kind_of_walk

Orders = Sequence[RevealOrder | Sampler] | Mapping[str, RevealOrder | Sampler]


class Findings(NamedTuple):
    """What came of it."""

    costs: Sequence[Costs]
    """Of each order."""
    predicted: Sequence[Advice]
    """What the loss profile says of the sampler itself, per step budget; empty where its order is not random."""
    proposals: Mapping[int, Sequence[Proposal]]
    """What may be raced, per step budget; the first is the baseline."""
    left_out: Mapping[int, Sequence[Proposal]]
    """What was proposed beside it."""
    checked: Sequence[Checked]
    """The proposals after their race; empty where there is none."""
    unchecked: str
    """Why there is none, in words; empty where nothing has to be checked."""


@dataclass(frozen=True)
class Advise:
    """Finds the best order and schedule per step budget: proposed by profiles, and then checked in a race on other
    instances.

    Positions in random order: the loss profile, a theorem for likelihood. Other orders that are known beforehand: the
    table of what their steps cost, exact for likelihood. Orders that look at predictions: path profiles along true
    responses and along the model's own output, which are bets. What they propose, with both ways of rounding, is
    compared with the linear schedule in the sampler's own order, in one race for all orders, on validation sequences
    that had no part in the profiles: tasks by their rule, text by the sampler's own likelihood. Likelihood in random
    order alone needs no check.

    Args:
        profile: how to measure the loss profile.
        sampler: whose order, schedule and count are to be chosen.
        steps: step budgets.
        paths: how to measure path profiles.
        race: how proposals are checked; None to go by prediction alone.
        by_task: what tells samplers apart where there is a task.
        by_likelihood: and where there is none, unless a sampler is greedy. Without it, proposals stay predictions.
        orders: to compare with the sampler's own: orders, with which the sampler is otherwise the same, or whole
            samplers.
        racers: proposals in a race at most, shared out evenly among the orders: of each its best by its own
            predictions.

    Raises:
        ValueError: a number is out of range, or the sampler cannot have one of the orders.
    """

    profile: Profile
    sampler: Sampler
    steps: Sequence[int]
    paths: Paths = field(default_factory=Paths)
    race: Race | None = None
    by_task: Check | None = None
    by_likelihood: Check | None = None
    orders: Orders = ()
    racers: int = 24

    def __post_init__(self) -> None:
        check(self, "steps", bool(self.steps) and all(steps >= 1 for steps in self.steps), "positive numbers")
        check(self, "steps", len(set(self.steps)) == len(self.steps), "different numbers")
        check_numbers(self, racers=2)
        check(self, "racers", self.racers >= 2 * len(self.samplers), "at least two for each order")

    @cached_property
    def samplers(self) -> list[Sampler]:
        """The sampler in its own order, and then in the others."""
        found = [self.sampler]
        for one in self.orders.values() if isinstance(self.orders, Mapping) else self.orders:
            sampler = one if isinstance(one, Sampler) else replace(self.sampler, order=one)
            if sampler not in found:
                found.append(sampler)
        return found

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        NotApplicable, UserError: as ``find``.
        """
        found, data = self.find(subject), subject.data.name
        own, words = found.costs[0], []
        for costs in found.costs:
            if costs.profile is not None:
                subject.outputs.file("profile.json", costs.profile.to_json(subject.fingerprint))
        if own.profile is not None:
            chosen = {advice.steps: advice.best for advice in found.predicted}
            subject.outputs.figure("advised grids", grid_figure(own.profile, chosen))
            subject.outputs.figure("predicted landscape", landscape_figure(own.profile, chosen))
            yield from predicted_rows(found.predicted, own.length, own.sequences, data)
            words.append(advice_text(found.predicted, own.length))
        if found.checked or found.unchecked:
            said = [(costs, one) for steps in self.steps for costs in found.costs for one in predictions(costs, steps)]
            for costs, one in said:
                yield from prediction_rows(one, costs, data)
            words.append(verdicts.predictions_text(said))
        yield from verdicts.verdict_rows(found.checked, data)
        if found.checked:
            subject.outputs.figure("race", race_figure(found.checked))
            words.append(verdicts.verdict_text(found.checked, found.left_out, found.costs))
        elif found.unchecked:
            words.append(verdicts.unchecked_text(found.unchecked, found.proposals))
        path = subject.outputs.file("advice.json", self._to_json(found, subject))
        if not found.unchecked:
            taken = ("sampler=advised", f"sampler.steps={self.steps[0]}")
            kind = "task" if subject.task is not None else "generation"
            words.append(f"Use it: {subject.outputs.command(f'evaluation={kind}', *taken, advice=path)}")
        subject.outputs.text("advice", "\n\n".join(words), markdown=True)

    def find(self, subject: Subject) -> Findings:
        """Profiles, proposals and their race.

        Raises:
            NotApplicable: no profile predicts a sampler with this count.
            UserError: there are too few validation sequences, or an order has no likelihood by which to compare it.
        """
        if subject.validation_size(self.profile.sequences) < 4:
            raise UserError("advice needs four validation sequences or more")
        judge, unchecked = self._judge(subject)
        if judge is not None and judge is self.by_likelihood:
            for sampler in self.samplers:
                try:
                    kind_of_walk(sampler)
                except ValueError as error:
                    raise UserError(f"advice by likelihood is not possible: {error}") from error
        measured = [measure_costs(sampler, self.profile, self.paths, subject) for sampler in self.samplers]
        names = told_apart(self.samplers)
        costs = [one._replace(name=name) for one, name in zip(measured, names, strict=True)]
        own = costs[0].profile
        known = [] if own is None else [advise(own, self.sampler, steps) for steps in self.steps]
        proposals: dict[int, list[Proposal]] = {}
        left_out: dict[int, list[Proposal]] = {}
        for steps in self.steps:
            proposals[steps], left_out[steps] = self._propose(costs, steps)
        checked: list[Checked] = []
        if judge is not None and self.race is not None:
            used = max(one.sequences for one in costs)
            checked = verify(self.race, judge, subject, used, proposals)
        return Findings(costs, known, proposals, left_out, checked, unchecked)

    def _judge(self, subject: Subject) -> tuple[Check | None, str]:
        """What tells the samplers apart, or why nothing does; neither for likelihood in random order, a theorem where
        tokens are drawn as they are predicted."""
        judge = self.by_likelihood if subject.task is None else self.by_task
        if subject.task is None:
            alone = len(self.samplers) == 1 and isinstance(self.sampler.order, Random)
            if alone and self.sampler.draws_as_predicted:
                return None, ""
            if any(_leaves_out(sampler.tokens) for sampler in self.samplers):
                return None, verdicts.UNDECIDABLE
        if judge is None or self.race is None:
            return None, verdicts.NOT_ASKED
        return judge, ""

    def _propose(self, costs: Sequence[Costs], steps: int) -> tuple[list[Proposal], list[Proposal]]:
        """What may be raced for a budget, and what is left out of it."""
        raced: list[Proposal] = []
        left: list[Proposal] = []
        for one in costs:
            proposed = propose(one.sampler, steps, one.averages, one.length, one.blocks)
            found = [replace(proposal, name=one.name) for proposal in proposed]
            best = shortlist(found, one.averages, len(found))
            if one is costs[0]:
                best = [found[0], *(proposal for proposal in best if proposal is not found[0])]
            most = self.racers // len(costs)
            raced, left = raced + best[:most], left + best[most:]
        return raced, left

    def _to_json(self, found: Findings, subject: Subject) -> str:
        """Of every budget what ``schedule=advised`` and ``sampler=advised`` take, and of which model it was found."""
        content: dict[str, dict[str, object]] = {str(steps): {} for steps in self.steps}
        content[predicted.MODEL] = {"name": subject.name, "fingerprint": subject.fingerprint}
        for advice in found.predicted:
            content[str(advice.steps)] |= predicted.as_json(advice)
            if not found.unchecked:
                content[str(advice.steps)] |= predicted.taken(
                    replace(self.sampler, schedule=advice.best, steps=advice.steps)
                )
        for checked in found.checked:
            content[str(checked.steps)] |= verdicts.as_json(checked)
        return to_json(content)


def _leaves_out(tokens: TokenSampler) -> bool:
    """Whether some tokens are given no probability that the denoiser gives one."""
    return tokens.temperature == 0 or tokens.top_k is not None or tokens.top_p is not None or bool(tokens.banned)
