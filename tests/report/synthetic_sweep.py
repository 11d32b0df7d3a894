"""Sweeps made up with known truth: instances of unequal difficulty, schedules of unequal quality, shared noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from mdm_lightning.evaluation.base import Row
from mdm_lightning.files import to_json
from mdm_lightning.report.records import SWEEP, Cell, Stage

SIX = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
BASELINES = ("linear", "cosine", "sine", "squared_sine")
TARGETS = {
    "beta": "BetaSchedule",
    "linear": "LinearSchedule",
    "cosine": "CosineSchedule",
    "sine": "SineSchedule",
    "squared_sine": "SquaredSineSchedule",
}
EQUIVALENT = {"linear": (0.5, 0.5), "squared_sine": (1.0, 1.0), "sine": (0.5, 0.9), "cosine": (0.9, 0.5)}
SETTINGS = {
    "checkpoint": "outputs/countdown/checkpoints/last.ckpt",
    "command": "python sweep.py ckpt=outputs/countdown evaluation=task sampler=llada",
    "metric": None,
    "seed": 0,
}


def quality(alpha: float, beta: float, steps: int) -> float:
    """Higher is better; the best pair is (0.9, 0.3), and schedules matter less with more steps."""
    return 0.45 * np.log2(steps / 16) - 6 / steps**0.5 * ((alpha - 0.9) ** 2 + (beta - 0.3) ** 2)


def make_cell(
    schedule: str | tuple[float, float],
    steps: int,
    *,
    stage: Stage = "grid",
    n: int = 200,
    lift: float | None = None,
    **axes: str,
) -> Cell:
    """A cell with accuracies (lift: quality, if not the one above), passes, and a predicted gap."""
    name, pair = (schedule, EQUIVALENT[schedule]) if isinstance(schedule, str) else ("beta", schedule)
    alpha, beta = pair if name == "beta" else (None, None)
    instances = np.random.default_rng([n, stage == "refined"])
    difficulty, luck = instances.normal(size=n), instances.normal(size=n)
    own = np.random.default_rng(crc32(repr((pair, steps, stage)).encode())).normal(size=n)
    level = quality(*pair, steps) if lift is None else lift
    scores = (level - difficulty + 0.5 * luck + 0.3 * own > 0).astype(float)
    config: dict[str, Any] = {"_target_": f"mdm_lightning.diffusion.schedule.{TARGETS[name]}"}
    swept = {"schedule": name, "sampler.steps": str(steps), **axes}
    if alpha is not None and beta is not None:
        config |= {"alpha": alpha, "beta": beta}
        swept |= {"schedule.alpha": str(alpha), "schedule.beta": str(beta)}
    stderr = float(scores.std(ddof=1) / n**0.5)
    rows = [
        Row("accuracy", float(scores.mean()), stderr, n, {"steps": steps}, "higher", scores.tolist()),
        Row("forward_passes", steps * (1 - 0.2 * abs(pair[0] - pair[1])), None, n, {}),
        Row("predicted_gap", 0.02 - 0.01 * level / 4, None, 1, {"order": axes.get("order", "random")}),
    ]
    identity = "-".join([stage, name, *(map(str, pair) if name == "beta" else ()), str(steps), *axes.values()])
    return Cell(
        id=identity,
        stage=stage,
        schedule=name,
        alpha=alpha,
        beta=beta,
        sampler=axes.get("sampler", "llada"),
        steps=steps,
        axes=swept,
        schedule_config=config,
        status="finished",
        seconds=round(0.01 * steps, 3),
        rows=rows,
    )


def make_sweep(
    grid: Sequence[float] = SIX, budgets: Sequence[int] = (16, 32, 64), *, refine: int = 0, n: int = 200, **axes: str
) -> list[Cell]:
    """The grid and the baselines at each budget; with ``refine``, that many of the best again on 1,000 instances."""
    cells = []
    for steps in budgets:
        pairs = [make_cell((alpha, beta), steps, n=n, **axes) for alpha in grid for beta in grid]
        cells += [*pairs, *(make_cell(name, steps, n=n, **axes) for name in BASELINES)]
        if refine:
            best = sorted(pairs, key=lambda cell: -cell.rows[0].value)[:refine]
            again = [*((cell.alpha, cell.beta) for cell in best), *BASELINES]
            cells += [make_cell(schedule, steps, stage="refined", n=1000, **axes) for schedule in again]
    return cells


def failed_cell(steps: int = 16, error: str = "ValueError: alpha must be positive") -> Cell:
    config = {"_target_": "mdm_lightning.diffusion.schedule.BetaSchedule", "alpha": -1.0, "beta": 0.3}
    swept = {"schedule": "beta", "schedule.alpha": "-1.0", "schedule.beta": "0.3", "sampler.steps": str(steps)}
    return Cell(f"failed-{steps}", "grid", "beta", -1.0, 0.3, "llada", steps, swept, config, "failed", error, 0.1)


def write_sweep(folder: Path, cells: Sequence[Cell], **settings: Any) -> Path:
    """A sweep folder with these cells."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SWEEP).write_text(to_json({**SETTINGS, **settings}))
    for cell in cells:
        cell.write(folder)
    return folder
