"""Score against what it costs: forward passes per sequence."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mdm_lightning.evaluation.statistics import pareto_front
from mdm_lightning.report.columns import Column, stages
from mdm_lightning.report.lines import COLOURS
from mdm_lightning.report.notation import stage, words


def pareto_figure(section: Sequence[Column]) -> Figure:
    """Score against forward passes, coloured by step budget; the cells on the front are numbered, and named beside."""
    parts = stages(section)
    figure = Figure(figsize=(4.8 * len(parts) + 3.2, 4.6), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    budgets = list(dict.fromkeys(column.budget for column in section))
    colours = {budget: COLOURS[number % len(COLOURS)] for number, budget in enumerate(budgets)}
    legend = [(Line2D([], [], marker="o", linestyle="", color=colour), budget) for budget, colour in colours.items()]
    for axes, part in zip(panels, parts, strict=True):
        front = _draw(axes, part, colours)
        legend.append((Line2D([], [], color="black", linewidth=1), f"Pareto front, {part[0].stage}:"))
        legend += [(Line2D([], [], linestyle=""), name) for name in front]
    handles, labels = zip(*legend, strict=True)
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _draw(axes: Axes, part: Sequence[Column], colours: dict[str, str]) -> list[str]:
    """Draws one stage, and returns the names of its front, in the order of their numbers."""
    points = [(nfe, entry, column) for column in part for entry in column.entries if (nfe := column.passes(entry))]
    objective = part[0].objective
    nfe, scores = [nfe for nfe, *_ in points], [entry.value for _, entry, _ in points]
    axes.scatter(nfe, scores, s=22, c=[colours[column.budget] for *_, column in points], alpha=0.45, linewidths=0)
    on_front = pareto_front(nfe, [objective.sign * score for score in scores])
    front = sorted((point for point, on in zip(points, on_front, strict=True) if on), key=lambda point: point[0])
    nfe, scores = [nfe for nfe, *_ in front], [entry.value for _, entry, _ in front]
    axes.step(nfe, scores, where="post", color="black", linewidth=1)
    edged = [colours[column.budget] for *_, column in front]
    axes.scatter(nfe, scores, s=34, c=edged, edgecolors="black", linewidths=1, zorder=3)
    for number, place in enumerate(zip(nfe, scores, strict=True), 1):
        _write(axes, number, place, objective.sign)
    score = f"{words(objective.metric)} ({objective.better} is better)"
    axes.set(xlabel="forward passes per sequence", ylabel=score, title=stage(part), xscale="log")
    axes.xaxis.set_major_locator(LogLocator(2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    return [f"{number}  {entry.label}, {column.budget}" for number, (_, entry, column) in enumerate(front, 1)]


def _write(axes: Axes, number: int, place: tuple[float, float], sign: int) -> None:
    """Writes a number beside its point: odd ones outside the front and even ones inside, so that neighbours part."""
    outside = number % 2 == 1
    side = -1 if outside else 1
    horizontal: Literal["right", "left"] = "right" if outside else "left"
    vertical: Literal["bottom", "top"] = "bottom" if outside == (sign > 0) else "top"
    offset = (4 * side, -3 * side * sign)
    text = axes.annotate(
        str(number), place, offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize="small", zorder=4
    )
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])
