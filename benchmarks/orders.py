"""Orders and schedules against each other by the sampler's own likelihood: nats per token of a trained run's validation
sequences, by exact walks, nothing generated.

    python benchmarks/orders.py outputs/train/RUN
    python benchmarks/orders.py outputs/train/RUN --sequences 64 --steps 4 8

First every order with every schedule, as the difference to random order with the same counts, on the same sequences
(standard errors are of paired differences). Then what the best counts would save in an order, chosen on half of the
sequences and scored on the other half, and published sizes of log2(length) steps.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from mdm_lightning.checkpoint.load import load
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, MaskSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.order_costs import OrderCosts
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.statistics import standard_error
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.order import Entropy, LeftToRight, MaxProbability, Random, RevealOrder, StaticOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.sizes import AscendingSizes, DilatedSizes
from mdm_lightning.sampling.spaced import MinimumDistance, Spaced
from mdm_lightning.tables import markdown_table

ORDERS: Sequence[RevealOrder] = (Spaced(), MinimumDistance(), LeftToRight(), MaxProbability(), Entropy())
SCHEDULES: Sequence[MaskSchedule] = (LinearSchedule(), BetaSchedule(1.0, 1.0), BetaSchedule(0.9, 0.3))


def walked(subject: Subject, sampler: Sampler, sequences: int) -> Float64[np.ndarray, " s"]:
    """Nats per token of each sequence."""
    row = next(iter(Likelihood(Policy(sampler), sequences=sequences)(subject)))
    assert row.scores is not None
    return np.array(row.scores)


def difference(one: Float64[np.ndarray, " s"], other: Float64[np.ndarray, " s"]) -> str:
    """Paired, with its standard error."""
    return f"{(one - other).mean():+.3f} ± {standard_error((one - other).tolist()) or 0:.3f}"


def compare_orders(subject: Subject, sequences: int, budgets: Sequence[int]) -> str:
    rows = []
    for steps in budgets:
        for schedule in SCHEDULES:
            random = walked(subject, Sampler(schedule, Expected(), Random(), steps=steps), sequences)
            cells = [str(steps), describe(schedule), f"{random.mean():.3f}"]
            for order in ORDERS:
                cost = walked(subject, Sampler(schedule, Expected(), order, steps=steps), sequences)
                cells.append(difference(cost, random))
            rows.append(cells)
    return markdown_table(["steps", "schedule", "random", *map(describe, ORDERS)], rows, left=2)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder, or what else ckpt= may name")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, loaded = time.perf_counter(), load(options.run)
    if loaded.prepare is None:
        raise UserError(f"what {loaded.name} was trained on is not known")
    subject = Subject(
        loaded.denoiser, loaded.tokenizer, loaded.length, loaded.prepare, device=loaded.device, seed=options.seed
    )
    size = subject.validation_size(options.sequences)
    print(f"{subject.data.name}: {size} validation sequences of {subject.length} tokens, {loaded.name}\n")
    print("nats per token in random order (a bound: one order each), and differences to it with equal counts\n")
    print(compare_orders(subject, size, options.steps), flush=True)
    print("\ngap to one position at a time, nats per token\n")
    print(compare_counts(subject, size, options.steps))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
