"""Orders and schedules against each other by the sampler's own likelihood: nats per token of a trained run's validation
sequences, by exact walks, nothing generated.

    python benchmarks/orders.py outputs/train/RUN
    python benchmarks/orders.py outputs/train/RUN --sequences 64 --steps 4 8 --generated 64

First every order with every schedule, as the difference to random order with the same counts, on the same sequences
(standard errors are of paired differences). With ``--generated`` so many texts are generated with each of them, and
scored by an n-gram model of the training text: does it rank orders and schedules as the likelihood does? Then what the
best counts would save in an order, chosen on half of the sequences and scored on the other half, and published sizes of
log2(length) steps.
"""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from trained import arguments, subject_of

from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, MaskSchedule
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.evaluation.generation.scorers import NgramScorer
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.statistics import rank_correlation, standard_error
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.order import Entropy, LeftToRight, MaxProbability, Random, RevealOrder, StaticOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.sizes import AscendingSizes, DilatedSizes
from mdm_lightning.sampling.spaced import MinimumDistance, Spaced
from mdm_lightning.tables import markdown_table

ORDERS: Sequence[RevealOrder] = (Random(), Spaced(), MinimumDistance(), LeftToRight(), MaxProbability(), Entropy())
SCHEDULES: Sequence[MaskSchedule] = (LinearSchedule(), BetaSchedule(1.0, 1.0), BetaSchedule(0.9, 0.3))


def walked(subject: Subject, sampler: Sampler, sequences: int) -> Float64[np.ndarray, " s"]:
    """Nats per token of each sequence."""
    row = next(iter(Likelihood(Policy(sampler), sequences=sequences)(subject)))
    assert row.scores is not None
    return np.array(row.scores)


def difference(one: Float64[np.ndarray, " s"], other: Float64[np.ndarray, " s"]) -> str:
    """Paired, with its standard error."""
    return f"{(one - other).mean():+.3f} ± {standard_error((one - other).tolist()) or 0:.3f}"


class Cell(NamedTuple):
    """A step budget and a schedule, in every order."""

    steps: int
    schedule: MaskSchedule
    walks: list[Float64[np.ndarray, " s"]]
    """Nats per token of each validation sequence, by order."""
    scores: list[Float64[np.ndarray, " g"]]
    """The n-gram model's nats per token of each generated text, by order; nothing if none are."""

    @property
    def name(self) -> list[str]:
        return [str(self.steps), describe(self.schedule)]


def measure(subject: Subject, sequences: int, generated: int, budgets: Sequence[int]) -> list[Cell]:
    scorer = subject.once("n-gram", lambda: NgramScorer().prepare(subject)) if generated else None
    cells = []
    for steps in budgets:
        for schedule in SCHEDULES:
            cell = Cell(steps, schedule, [], [])
            for order in ORDERS:
                sampler = Sampler(schedule, Expected(), order, steps=steps)
                cell.walks.append(walked(subject, sampler, sequences))
                if scorer is not None:
                    tokens = generate(subject, sampler, generated, 64).tokens.numpy()
                    cell.scores.append(scorer(tokens, [""] * generated).nats / subject.length)
            cells.append(cell)
            print(f"measured: {', '.join(cell.name)}", file=sys.stderr, flush=True)
    return cells


def compare_orders(cells: Sequence[Cell]) -> str:
    rows = [
        [*cell.name, f"{cell.walks[0].mean():.3f}", *(difference(cost, cell.walks[0]) for cost in cell.walks[1:])]
        for cell in cells
    ]
    return markdown_table(["steps", "schedule", *map(describe, ORDERS)], rows, left=2)


def compare_scores(cells: Sequence[Cell]) -> str:
    """The n-gram scores, and how far they agree with the walks."""
    rows = [
        [*cell.name, *(f"{score.mean():.3f} ± {standard_error(score.tolist()) or 0:.3f}" for score in cell.scores)]
        for cell in cells
    ]
    lines = [markdown_table(["steps", "schedule", *map(describe, ORDERS)], rows, left=2), ""]
    for steps in dict.fromkeys(cell.steps for cell in cells):
        own = [cell for cell in cells if cell.steps == steps]
        lines.append(f"Spearman's correlation with the walks at {steps} steps, {agreement(own)}")
        lines += [f"- {describe(cell.schedule)}, orders alone: {agreement([cell])}" for cell in own]
    return "\n".join([*lines, f"over all step budgets, {agreement(cells)}"])


def agreement(cells: Sequence[Cell]) -> str:
    walks = [float(cost.mean()) for cell in cells for cost in cell.walks]
    scores = [float(score.mean()) for cell in cells for score in cell.scores]
    correlation = rank_correlation(walks, scores)
    return f"{len(walks)} samplers: {'-' if correlation is None else f'{correlation:.3f}'}"


def compare_counts(subject: Subject, sequences: int, budgets: Sequence[int]) -> str:
    orders: tuple[StaticOrder, ...] = (Random(), Spaced())
    tables = {
        order: OrderCosts(order, anchors=subject.length, sequences=sequences).measure(subject) for order in orders
    }
    rows = []
    for steps in budgets:
        for order, table in tables.items():
            n = table.length
            linear = table.gap(Expected().counts(LinearSchedule(), steps, n))
            cells = [str(steps), describe(order), f"{linear.value / n:.3f} ± {linear.stderr / n:.3f}"]
            beta = table.cross_fitted_gap(
                lambda costs, k=steps, n=n: Expected().counts(costs.best_beta(k, Expected().rounding), k, n)
            )
            best = table.cross_fitted_gap(lambda costs, k=steps: costs.best_counts(k))
            cells += [f"{gap.value / n:.3f} ± {gap.stderr / n:.3f}" for gap in (beta, best)]
            rows.append([*cells, f"{table.gap(table.costs.best_counts(steps)).value / n:.3f}"])
    header = ["steps", "order", "linear", "best Beta", "best counts", "best counts, not cross-fitted"]
    lines = [markdown_table(header, rows, left=2), ""]
    for count in (AscendingSizes(), DilatedSizes()):
        sizes = count.counts(LinearSchedule(), 1, subject.length)
        costs = (f"{describe(order)} {table.score(sizes).value / table.length:.3f}" for order, table in tables.items())
        lines.append(f"{describe(count)} ({len(sizes)} steps), nats per token: {', '.join(costs)}")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--generated", type=int, default=0, help="texts to generate with each sampler")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    options = parser.parse_args()
    for run in options.runs:
        started, subject = time.perf_counter(), subject_of(run, options.seed)
        size = subject.validation_size(options.sequences)
        print(f"\n{run}: {subject.data.name}, {size} validation sequences of {subject.length} tokens\n")
        cells = measure(subject, size, options.generated, options.steps)
        print("nats per token in random order (a bound: one order each), and differences to it with equal counts\n")
        print(compare_orders(cells), flush=True)
        if options.generated:
            print(f"\nn-gram model's nats per token of {options.generated} generated texts\n\n{compare_scores(cells)}")
        print("\ngap to one position at a time, nats per token\n")
        print(compare_counts(subject, size, options.steps))
        print(f"\n{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
