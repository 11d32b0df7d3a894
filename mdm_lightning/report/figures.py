"""The figures of a sweep, as matplotlib figures that are drawn on no screen."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mdm_lightning.checkpoint.stored_config import build
from mdm_lightning.diffusion.schedule import LinearSchedule, MaskSchedule
from mdm_lightning.evaluation.figures import schedule_figure
from mdm_lightning.report.columns import Column, preferred, stages
from mdm_lightning.report.frontier import frontier_figures
from mdm_lightning.report.heatmap import heatmap_figure
from mdm_lightning.report.lines import place, steps_figure
from mdm_lightning.report.pareto import pareto_figure
from mdm_lightning.report.records import ANY
from mdm_lightning.report.verdict import verdict


def section_figures(section: Sequence[Column]) -> dict[str, Figure]:
    """The figures of the columns whose other axes agree, by name; those that have something to show."""
    drawn = {}
    if any(place(column) is not None for column in section):  # exact distributions count no passes
        drawn["score against steps"] = steps_figure(section)
    heatmap = heatmap_figure(stages(section)[0])
    if heatmap is not None:
        drawn["score over alpha and beta"] = heatmap
    if any(column.passes(entry) for column in section for entry in column.entries):
        drawn["score against forward passes"] = pareto_figure(section)
    drawn |= frontier_figures(section)
    if any(entry.cell.schedule != ANY for column in section for entry in column.entries):
        drawn["schedules of the verdicts"] = winners_figure(section)
    return drawn


def winners_figure(section: Sequence[Column]) -> Figure:
    """Curves of the schedules that the verdicts name, beside the linear schedule."""
    budgets: dict[str, list[int | None]] = {"linear": []}
    schedules: dict[str, MaskSchedule] = {"linear": LinearSchedule()}
    for column in preferred(section):
        chosen = verdict(column).use
        if chosen.cell.schedule == ANY:
            continue
        budgets.setdefault(chosen.label, []).append(column.steps)
        if chosen.label not in schedules:
            schedules[chosen.label] = build(chosen.cell.schedule_config, MaskSchedule, f"cell {chosen.cell.id}")
    return schedule_figure({_with_budgets(label, budgets[label]): schedules[label] for label in schedules})


def _with_budgets(label: str, budgets: Sequence[int | None]) -> str:
    """``Beta(0.9, 0.3): 16, 32 steps``."""
    counted = ", ".join(str(steps) for steps in budgets if steps is not None)
    parts = [f"{counted} steps"] * bool(counted) + ["one step per token"] * (None in budgets)
    return f"{label}: {', '.join(parts)}" if parts else label
