"""`evaluation=advise`: which schedule to use per step budget, proposed by profiles and checked on other instances."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mdm_lightning.arguments import check as check_argument
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.evaluation.advice import predicted, verdicts
from mdm_lightning.evaluation.advice.checks import Check, Checked, verify
from mdm_lightning.evaluation.advice.costs import Costs, measure_costs
from mdm_lightning.evaluation.advice.figures import grid_figure, landscape_figure, race_figure
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.predicted import Advice, advice_text, advise, gap_row
from mdm_lightning.evaluation.advice.proposals import propose
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.files import to_json
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class Advise:
    """Finds the best schedule per step budget: proposed by profiles, and then checked in a race on other instances.

    Positions in random order: the loss profile, a theorem for likelihood. Other orders that are known beforehand: the
    table of what their steps cost, exact for likelihood. Orders that look at predictions: path profiles along true
    responses and along the model's own output, which are bets. What they propose, with both ways of rounding, is
    compared with the linear schedule on validation sequences that had no part in the profiles: tasks by their rule.
    Likelihood in random order needs no check.

    Args:
        profile: how to measure the loss profile.
        sampler: whose schedule and count are to be chosen.
        steps: step budgets.
        paths: how to measure path profiles.
        race: how proposals are checked; None to go by prediction alone.
        by_task: what tells samplers apart where there is a task.
        by_likelihood: and where there is none, unless the sampler is greedy. Without it, proposals stay predictions.

    Raises:
        ValueError: a step budget is not positive.
    """

    profile: Profile
    sampler: Sampler
    steps: Sequence[int]
    paths: Paths = field(default_factory=Paths)
    race: Race | None = None
    by_task: Check | None = None
    by_likelihood: Check | None = None

    def __post_init__(self) -> None:
        check_argument(self, "steps", bool(self.steps) and all(steps >= 1 for steps in self.steps), "positive numbers")

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        NotApplicable: no profile predicts a sampler with this count.
        """
        costs = measure_costs(self.sampler, self.profile, self.paths, subject)
        found: list[Advice] = []
        if costs.profile is not None:
            found = [advise(costs.profile, self.sampler, steps) for steps in self.steps]
            yield from self._predictions(subject, costs.profile, costs.sequences, found)
        checked = self.check(subject, costs)
        yield from verdicts.verdict_rows(checked, subject.data.name)
        path = subject.outputs.file("advice.json", _to_json(found, checked))
        words = [advice_text(found, costs.length, self.sampler, path)] if found else []
        if checked:
            subject.outputs.figure("race", race_figure(checked))
            words.append(verdicts.verdict_text(checked, self.sampler, costs.passes, path))
        elif not found:
            words.append(self._unverified(costs))
        subject.outputs.text("advice", "\n\n".join(words), markdown=True)

    def check(self, subject: Subject, costs: Costs) -> list[Checked]:
        """The proposals for every budget after their race; none where there is nothing to check (likelihood in random
        order is a theorem), or nothing to check with."""
        greedy = self.sampler.tokens.temperature == 0  # gives other sequences than its own no probability
        by_likelihood = None if greedy or costs.profile is not None else self.by_likelihood
        chosen = by_likelihood if subject.task is None else self.by_task
        if chosen is None or self.race is None:
            return []
        proposals = {
            steps: propose(self.sampler, steps, costs.by_name, costs.length, costs.blocks) for steps in self.steps
        }
        return verify(self.race, chosen, subject, costs.sequences, proposals)

    def _predictions(self, subject: Subject, profile: LossProfile, size: int, found: Sequence[Advice]) -> Iterator[Row]:
        """What the loss profile says, as rows, figures and a file."""
        subject.outputs.file("profile.json", profile.to_json(subject.fingerprint))
        chosen = {advice.steps: advice.best for advice in found}
        subject.outputs.figure("advised grids", grid_figure(profile, chosen))
        subject.outputs.figure("predicted landscape", landscape_figure(profile, chosen))
        for advice in found:
            for schedule, gap in {**advice.gaps, "optimal counts": advice.optimal_gap}.items():
                settings = {"data": subject.data.name, "steps": advice.steps, "schedule": schedule}
                yield gap_row(gap, profile.length, size, settings)

    def _unverified(self, costs: Costs) -> str:
        """What the profiles propose, where nothing checks it."""
        words = [verdicts.UNVERIFIED, ""]
        for steps in self.steps:
            for proposal in propose(self.sampler, steps, costs.by_name, costs.length, costs.blocks):
                words.append(f"- {steps} steps: {proposal.label} (proposed by {', '.join(proposal.sources)})")
        return "\n".join(words)


def _to_json(found: Sequence[Advice], checked: Sequence[Checked]) -> str:
    content: dict[str, dict[str, object]] = {str(advice.steps): predicted.as_json(advice) for advice in found}
    for one in checked:
        content.setdefault(str(one.steps), {})["verified"] = verdicts.as_json(one)
    return to_json(content)
