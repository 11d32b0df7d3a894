"""What steps cost in an order, by the profile that suits it."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mdm_lightning.diffusion.profile.cross_fitting import CountCosts, Estimate
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.evaluation.advice.paths import MeasuredPaths, Paths
from mdm_lightning.evaluation.advice.predicted import predictable
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.sampling.count import Expected, PlannedCount
from mdm_lightning.sampling.order import PredictedOrder, Random, StaticOrder
from mdm_lightning.sampling.sampler import Sampler


class Costs(NamedTuple):
    """What profiles say a step costs in a sampler's order."""

    sampler: Sampler
    by_name: Mapping[str, CountCosts]
    basis: str
    """What they are worth: proved or a bet, in words."""
    length: int
    """Positions of a sequence, or of a block."""
    blocks: int
    """Blocks per sequence."""
    sequences: int
    """Validation sequences that were used up."""
    passes: int
    """Forward passes of single sequences."""
    profile: LossProfile | None = None
    """For positions in random order."""
    name: str = ""
    """By which the sampler is told from others; empty for its order."""

    @property
    def order(self) -> str:
        """The name."""
        return self.name or describe(self.sampler.order)

    @property
    def averages(self) -> dict[str, StepCosts]:
        """What a step costs on average."""
        return {name: measured.costs for name, measured in self.by_name.items()}

    def steps(self, budget: int) -> int:
        """Steps of a block."""
        return max(1, budget // self.blocks)


def measure_costs(sampler: Sampler, profile: Profile, paths: Paths, subject: Subject) -> Costs:
    """Measures the profiles that suit a sampler's order.

    Args:
        profile: how, for positions in random order; the table of another static order has as many knots and sequences.
        paths: how, for orders that look at predictions.

    Raises:
        NotApplicable: no profile predicts a sampler with this count, or one in blocks, or the count looks at neither
            schedule nor steps.
    """
    count, order = sampler.count, sampler.order
    if not (count.reads_schedule or count.reads_steps):
        raise NotApplicable(f"there is nothing to advise: {type(count).__name__} looks at neither schedule nor steps")
    looks = isinstance(order, PredictedOrder)
    known = isinstance(count, PlannedCount) and not count.remasks if looks else predictable(sampler)
    if not known:
        raise NotApplicable(
            "a loss profile predicts neither adaptive nor remasking counts, nor blocks; of orders that look at the "
            "predictions a path profile does, in blocks too"
        )
    if looks:
        return path_costs(sampler, paths.measure(subject, sampler), task=subject.task is not None)
    guess = "" if sampler.draws_as_predicted else "; of tokens drawn as they are predicted, and so a guess here"
    if isinstance(order, StaticOrder) and not isinstance(order, Random):
        table = OrderCosts(order, profile.knots, profile.sequences, profile.batch_size).measure(subject)
        size = len(table.curves)
        exact = "exact for the order of each sequence" if order.reads_noise else "exact"
        basis = f"the likelihood of every counts, {exact}{guess}"
        return Costs(sampler, {"table": table}, basis, table.length, 1, size, size * len(table.anchors))
    measured, size = profile.measure(subject)
    basis = f"the K-step NELBO, a proved bound on the likelihood under every schedule{guess}"
    passes = size * len(measured.counts)
    return Costs(sampler, {"loss profile": measured}, basis, measured.length, 1, size, passes, measured)


def path_costs(sampler: Sampler, measured: MeasuredPaths, *, task: bool) -> Costs:
    """What path profiles say a step costs: by likelihood and, for tasks, by the share that is solved, too."""
    names = {"responses": "path of responses", "own": "path of own output", "own blocks": "own blocks"}
    costs = {f"{names[name]}, likelihood": profile.likelihood for name, profile in measured.profiles.items()}
    if task:
        solvable = [name for name in measured.profiles if name != "own blocks"]
        costs.update({f"{names[name]}, solved": measured.profiles[name].solved for name in solvable})
    length = measured.profiles["responses"].length
    basis = "one path for all schedules, a bet"
    return Costs(sampler, costs, basis, length, measured.blocks, measured.sequences, measured.passes)


class Prediction(NamedTuple):
    """What a profile says of a step budget, in nats per sequence or block. What was chosen is cross-fitted."""

    order: str
    steps: int
    profile: str
    linear: Estimate
    best_beta: Estimate
    best_counts: Estimate
    flattered: float
    """The best counts on the very sequences that chose them: too low."""


def predictions(costs: Costs, budget: int) -> Iterator[Prediction]:
    """What each profile of an order says of a step budget: the linear schedule, the best Beta schedule and the best of
    all counts, rounded cumulatively."""
    steps, rounding, n = costs.steps(budget), Expected(), costs.length

    def beta(average: StepCosts) -> list[int]:
        return rounding.counts(average.best_beta(steps, rounding.rounding), steps, n).tolist()

    for name, measured in costs.by_name.items():
        yield Prediction(
            costs.order,
            budget,
            name,
            Estimate.of(measured.per_sequence(rounding.counts(LinearSchedule(), steps, n))),
            measured.cross_fitted_cost(beta),
            measured.cross_fitted_cost(lambda average: average.best_counts(steps)),
            measured.costs.score(measured.costs.best_counts(steps)),
        )


def prediction_rows(found: Prediction, costs: Costs, data: str) -> Iterator[Row]:
    """The same as rows, in nats per token."""
    chosen = {"Linear": (found.linear, "given"), "best Beta": (found.best_beta, "cross-fitted")}
    chosen["best counts"] = (found.best_counts, "cross-fitted")
    for schedule, (estimate, how) in chosen.items():
        settings = {
            "data": data, "steps": found.steps, "order": found.order, "profile": found.profile, "schedule": schedule,
            "chosen": how,
        }  # fmt: skip
        value, stderr = estimate.value / costs.length, estimate.stderr / costs.length
        yield Row("predicted_cost", value, stderr, costs.sequences, settings, "lower")
