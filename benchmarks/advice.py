"""Advice against a grid of schedules, on runs of tasks with checked answers.

    python benchmarks/advice.py outputs/train/SUDOKU outputs/train/DYCK --out advice
    python benchmarks/advice.py --out advice outputs/train/SUDOKU --settings entropy --steps 2 4

A grid of Beta schedules with both roundings is measured on some validation problems. Every predictor's ranking of it is
compared with the measured one: Spearman's correlation, and the regret of the schedule that it puts first, on problems
that had no part in choosing. Then the advice that ``evaluation=advise`` gives after its check, the grid's best and the
linear schedule are measured on fresh problems.

Each cell (run, order and temperature, step budget) is a file of its own in the folder ``--out``; those that are there
already are not measured again. The tables at the end are of all cells in the folder, and show all that was looked at.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from advice_cell import measure
from trained import arguments, subject_of

from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.costs import path_costs
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.files import from_json, read_text, to_json, write_atomically
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.order import Confidence, Entropy
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.tables import markdown_table

SETTINGS = {
    "confidence": Sampler(LinearSchedule(), Expected(), Confidence(), TokenSampler(temperature=0)),
    "entropy": Sampler(LinearSchedule(), Expected(), Entropy(), TokenSampler(temperature=1)),
}
GAP = "random order (section 4)"


def measure_run(run: str, setting: str, options: argparse.Namespace) -> None:
    """The cells of a run and a setting that are not there yet."""
    missing = {steps: options.out / f"{Path(run).name}-{setting}-{steps}.json" for steps in options.steps}
    missing = {steps: path for steps, path in missing.items() if not path.is_file()}
    if not missing:
        return
    subject, sampler = subject_of(run, options.seed), SETTINGS[setting]
    if subject.task is None:
        raise UserError(f"{run} is no run of a task")
    paths = Paths(knots=25, sequences=options.profile, own_blocks=options.own_blocks, batch_size=64)
    measured = path_costs(sampler, paths.measure(subject, sampler), task=True)
    profile, _ = Profile(sequences=options.profile).measure(subject)
    costs = {**measured.averages, GAP: profile.costs}
    asked = {name: value for name, value in vars(options).items() if name not in ("runs", "out", "settings", "steps")}
    for steps, path in missing.items():
        started = time.perf_counter()
        cell = {"run": Path(run).name, "setting": setting, "steps": steps, "options": asked}
        cell |= measure(subject, sampler, costs, steps, options)
        write_atomically(path, to_json({**cell, "profile_passes": measured.passes}))
        print(f"{path.stem}, {time.perf_counter() - started:.0f} s: {cell['verdict']}", flush=True)


def advice_table(cells: Sequence[dict[str, Any]]) -> str:
    header = ["run", "order", "steps", "linear", "grid's best", "advice", "gain", "p", "regret", "check", "grid"]
    rows = []
    for cell in cells:
        numbers = [f"{cell[name]:.3f}" for name in ("linear", "best", "advice")]
        numbers += [f"{cell[name]:+.3f} ± {cell[f'{name}_stderr']:.3f}" for name in ("gain", "regret")]
        numbers.insert(4, f"{cell['p']:.2g}")
        passes = [f"{cell[name]:,}" for name in ("check_passes", "grid_passes")]
        rows.append([cell["run"], cell["setting"], str(cell["steps"]), *numbers, *passes])
    return markdown_table(header, rows, left=2)


def predictor_tables(cells: Sequence[dict[str, Any]]) -> str:
    """Spearman's correlation and regret of every predictor in every cell."""
    names = list(dict.fromkeys(name for cell in cells for name in cell["predictors"]))
    rows = []
    for cell in cells:
        said = [cell["predictors"].get(name) for name in names]
        shown = [_predicted(one) for one in said]
        rows.append([cell["run"], cell["setting"], str(cell["steps"]), str(len(cell["grid"])), *shown])
    return markdown_table(["run", "order", "steps", "schedules", *names], rows, left=2)


def summary(cells: Sequence[dict[str, Any]]) -> str:
    """Means over the step budgets of a run and setting: of the predictors, and of the advice."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["run"], cell["setting"]].append(cell)
    rows = []
    for (run, setting), group in groups.items():
        grid = sum(cell["grid_passes"] for cell in group)
        for name in group[0]["predictors"]:
            said = [cell["predictors"][name] for cell in group]
            correlations = [one["spearman"] for one in said if one["spearman"] is not None]
            regrets = [one["regret"] for one in said]
            mean = f"{np.mean(correlations):.3f}" if correlations else "-"
            rows.append([run, setting, name, mean, f"{np.mean(regrets):+.3f}", f"{max(regrets):+.3f}", ""])
        regrets, cost = [cell["regret"] for cell in group], group[0]["profile_passes"]
        cost += sum(cell["check_passes"] for cell in group)
        shown = [f"{np.mean(regrets):+.3f}", f"{max(regrets):+.3f}", f"{cost:,} of {grid:,}"]
        rows.append([run, setting, "advice, checked", "", *shown])
    return markdown_table(
        ["run", "order", "", "Spearman", "mean regret", "largest", "passes, of the grid's"], rows, left=3
    )


def _predicted(said: dict[str, Any] | None) -> str:
    if said is None:
        return "-"
    correlation = "-" if said["spearman"] is None else f"{said['spearman']:.2f}"
    return f"{correlation}, {said['regret']:+.3f}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--settings", choices=SETTINGS, nargs="+", default=list(SETTINGS))
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--schedules", type=int, default=32, help="of the grid, at most")
    parser.add_argument("--profile", type=int, default=128, help="problems for the profiles")
    parser.add_argument("--own-blocks", type=int, default=32)
    parser.add_argument("--problems", type=int, default=300, help="problems for the grid")
    parser.add_argument("--fresh", type=int, default=1000, help="problems for the comparison")
    parser.add_argument("--race", type=int, default=200, help="problems for the race, and again for its confirmation")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for run in options.runs:
        for setting in options.settings:
            measure_run(run, setting, options)
    cells = [from_json(read_text(path)) for path in sorted(options.out.glob("*.json"))]
    cells.sort(key=lambda cell: (cell["run"], cell["setting"], cell["steps"]))
    print(f"\nshare solved of fresh problems, and forward passes of the check and of the grid\n\n{advice_table(cells)}")
    print(f"\nSpearman's correlation with the grid, and regret of the first choice\n\n{predictor_tables(cells)}")
    print(f"\nmeans over the step budgets\n\n{summary(cells)}")


if __name__ == "__main__":
    main()
