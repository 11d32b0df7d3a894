"""Advice against a grid of schedules, on a run of a task with checked answers.

    python benchmarks/advice.py outputs/train/RUN
    python benchmarks/advice.py outputs/train/RUN --order entropy --temperature 1 --steps 2 4

A grid of Beta schedules with both roundings is measured on some validation problems. Every predictor's ranking of it is
compared with the measured one: Spearman's correlation, and the regret of the schedule that it puts first, on problems
that had no part in choosing. Then the advice that `evaluation=advise` gives after its check, the grid's best and the
linear schedule are measured on fresh problems. All that was looked at is printed.
"""

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from mdm_lightning.checkpoint.load import load
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.checks import ByTask, verify
from mdm_lightning.evaluation.advice.costs import path_costs
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.advice.proposals import ROUNDINGS, Proposal, propose
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.advice.verdicts import verdict
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.evaluation.statistics import rank_correlation, sign_flip_test
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.order import Confidence, Entropy, Margin
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.tables import markdown_table

ORDERS = {"confidence": Confidence(), "entropy": Entropy(), "margin": Margin()}
PARAMETERS = (0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5)
GAP = "random order (section 4)"


def solved(subject: Subject, sampler: Sampler, first: int, problems: int) -> Float64[np.ndarray, " s"]:
    """1 where a problem is solved."""
    rows = TaskAccuracy(sampler, problems, batch_size=250)(subject.starting_at(first))
    scores = next(row.scores for row in rows if row.metric == "accuracy")
    assert scores is not None
    return np.array(scores)


def grid(sampler: Sampler, steps: int, length: int) -> list[Proposal]:
    """Beta schedules with both roundings, without repetition of counts; the linear one first."""
    betas = [BetaSchedule(0.5, 0.5), *(BetaSchedule(a, b) for a in PARAMETERS for b in PARAMETERS)]
    found: dict[tuple[int, ...], Proposal] = {}
    for schedule, count in itertools.product(betas, ROUNDINGS):
        counts = tuple(count.counts(schedule, steps, length).tolist())
        chosen = replace(sampler, schedule=schedule, count=count, steps=steps)
        found.setdefault(tuple(m for m in counts if m), Proposal(chosen, ("grid",), counts))
    return list(found.values())


def compare(
    subject: Subject,
    sampler: Sampler,
    costs: Mapping[str, StepCosts],
    steps: int,
    first: int,
    options: argparse.Namespace,
) -> tuple[list[list[str]], list[str]]:
    """Rows of predictors, and a row of the advice."""
    length = next(iter(costs.values())).length
    candidates = grid(sampler, steps, length)
    measured = np.array([solved(subject, c.sampler, first, options.problems).mean() for c in candidates])
    passes = sum(options.problems * sum(m > 0 for m in c.counts or ()) for c in candidates)
    fresh = first + options.problems
    best = candidates[int(measured.argmax())]
    linear = candidates[0]
    race = Race(instances=options.race, first=50, confirm=options.race)
    proposals = propose(sampler, steps, costs, length)
    # The advice sees neither the grid's problems nor those on which all are compared.
    behind = fresh + options.fresh - subject.first
    (checked,) = verify(race, ByTask(250), subject, behind, {steps: proposals})
    on_fresh = {
        name: solved(subject, chosen.sampler, fresh, options.fresh)
        for name, chosen in (("linear", linear), ("grid", best), ("advice", checked.use))
    }
    rows = []
    for name, cost in costs.items():
        scores = [cost.score(np.array(c.counts)) for c in candidates]
        correlation = rank_correlation([-score for score in scores], measured.tolist())
        first_choice = candidates[int(np.argmin(scores))]
        regret = on_fresh["grid"].mean() - solved(subject, first_choice.sampler, fresh, options.fresh).mean()
        correlated = "-" if correlation is None else f"{correlation:.3f}"
        rows.append([str(steps), name, str(len(candidates)), correlated, f"{regret:+.3f}"])
    gain = on_fresh["advice"] - on_fresh["linear"]
    p = float(sign_flip_test(gain[None])[0]) if gain.any() else 1.0
    regret = float(on_fresh["grid"].mean() - on_fresh["advice"].mean())
    advice = [str(steps), *(f"{on_fresh[name].mean():.3f}" for name in ("linear", "grid", "advice"))]
    advice += [
        f"{gain.mean():+.3f}",
        f"{p:.2g}",
        f"{regret:+.3f}",
        f"{checked.outcome.evaluations * steps:,}",
        f"{passes:,}",
    ]
    print(verdict(checked), flush=True)
    return rows, advice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder of a task")
    parser.add_argument("--order", choices=ORDERS, default="confidence")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument("--profile", type=int, default=128, help="problems for the profiles")
    parser.add_argument("--own-blocks", type=int, default=32)
    parser.add_argument("--problems", type=int, default=500, help="problems for the grid")
    parser.add_argument("--fresh", type=int, default=1000, help="problems for the comparison")
    parser.add_argument("--race", type=int, default=200, help="problems for the race, and again for its confirmation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, loaded = time.perf_counter(), load(options.run)
    if loaded.prepare is None or (task := loaded.prepare().task) is None:
        raise UserError(f"{loaded.name} is no run of a task")
    subject = Subject(
        loaded.denoiser, loaded.tokenizer, loaded.length, loaded.prepare, task=task, device=loaded.device,
        seed=options.seed,
    )  # fmt: skip
    tokens = TokenSampler(temperature=options.temperature)
    sampler = Sampler(LinearSchedule(), Expected(), ORDERS[options.order], tokens)
    paths = Paths(knots=25, sequences=options.profile, own_blocks=options.own_blocks, batch_size=64)
    measured = path_costs(paths.measure(subject, sampler), task=True)
    profile, _ = Profile(sequences=options.profile).measure(subject)
    costs = {**measured.by_name, GAP: profile.costs}
    print(f"{subject.data.name}, order {options.order}, temperature {options.temperature}, {loaded.name}")
    print(f"profiles: {measured.passes:,} forward passes of single sequences, once for all budgets\n", flush=True)
    predictors, advice = [], []
    for steps in options.steps:
        rows, row = compare(subject, sampler, costs, steps, options.profile, options)
        predictors += rows
        advice.append(row)
    print("\nranking of the grid, and regret of the predictor's own first choice (no check) on fresh problems\n")
    print(markdown_table(["steps", "predictor", "schedules", "Spearman", "regret"], predictors, left=2))
    print(f"\nshare solved of {options.fresh:,} fresh problems; passes of the check and of the grid\n")
    header = ["steps", "linear", "grid's best", "advice", "gain", "p", "regret", "passes", "grid's passes"]
    print(markdown_table(header, advice))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
