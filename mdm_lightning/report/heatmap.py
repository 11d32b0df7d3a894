"""Scores over the parameters of the Beta family, a panel per step budget."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdm_lightning.report.columns import Column, Entry
from mdm_lightning.report.notation import decimals, number, stage, words

# Schedules by other names that are Beta pairs, and the markers they get.
NAMED = {"linear": (0.5, 0.5, "o"), "squared sine": (1.0, 1.0, "D")}
ANNOTATED = 8
ACROSS = 3


def heatmap_figure(part: Sequence[Column]) -> Figure | None:
    """Scores of the Beta pairs of one stage, the best starred; None if there are fewer than two pairs.

    Pairs on a grid become tiles, with their scores written on them if the grid is small; others become dots.
    """
    drawn = [(column, pairs) for column in part if len(pairs := _pairs(column)) > 1]
    if not drawn:
        return None
    across = min(ACROSS, len(drawn))
    down = math.ceil(len(drawn) / across)
    alphas = {entry.cell.alpha for _, pairs in drawn for entry in pairs}
    side = 0.42 * min(max(len(alphas), 6), ANNOTATED)
    figure = Figure(figsize=((side + 1.5) * across, (side + 1) * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    digits = min(3, decimals(part))
    for axes, (column, pairs) in zip(panels, drawn, strict=False):
        _draw(axes, column, pairs, digits)
    for axes in panels[len(drawn) :]:
        axes.remove()
    objective = part[0].objective
    figure.suptitle(f"{words(objective.metric)} ({objective.better} is better), {stage(part)}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _pairs(column: Column) -> list[Entry]:
    return [entry for entry in column.entries if entry.cell.alpha is not None]


def _draw(axes: Axes, column: Column, pairs: Sequence[Entry], digits: int) -> None:
    """One step budget."""
    corners = [(float(entry.cell.alpha or 0), float(entry.cell.beta or 0)) for entry in pairs]
    alphas, betas = (sorted(set(side)) for side in zip(*corners, strict=True))
    colours = "viridis" if column.objective.better == "higher" else "viridis_r"
    gridded = len(alphas) * len(betas) <= 2 * len(pairs)
    if gridded:
        table = np.full((len(betas), len(alphas)), np.nan)
        for (alpha, beta), entry in zip(corners, pairs, strict=True):
            table[betas.index(beta), alphas.index(alpha)] = entry.value
        image = axes.imshow(table, origin="lower", cmap=colours, aspect="auto")
        axes.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
        axes.set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        if max(len(alphas), len(betas)) <= ANNOTATED:
            _annotate(axes, table, digits, bright_is_high=column.objective.sign > 0)
    else:
        image = axes.scatter(*zip(*corners, strict=True), c=[entry.value for entry in pairs], cmap=colours, s=60)
    axes.figure.colorbar(image, ax=axes)
    best = corners[max(range(len(pairs)), key=lambda i: column.objective.sign * pairs[i].value)]
    marks = [("best", *best, "*", 90, 1), *((name, *where, 30, -1) for name, where in NAMED.items())]
    for name, alpha, beta, marker, size, side in marks:
        if alphas[0] <= alpha <= alphas[-1] and betas[0] <= beta <= betas[-1]:
            x, y = (_between(alpha, alphas), _between(beta, betas)) if gridded else (alpha, beta)
            if gridded and alpha in alphas and beta in betas:  # beside the number, in the tile's upper half
                x, y = x + 0.3 * side, y + 0.31
            label = name if name == "best" else f"{name} = Beta({alpha:g}, {beta:g})"
            axes.scatter(x, y, s=size, marker=marker, color="white", edgecolors="black", linewidths=0.9, label=label)
    axes.set(xlabel="α", ylabel="β", title=column.budget)


def _annotate(axes: Axes, table: np.ndarray, digits: int, *, bright_is_high: bool) -> None:
    """Writes the scores on the tiles, dark on bright and bright on dark."""
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (row, place), value in np.ndenumerate(table):
        if np.isfinite(value):
            bright = (value > middle) == bright_is_high
            colour = "black" if bright else "white"
            axes.text(place, row - 0.15, number(value, digits), color=colour, ha="center", va="center", fontsize=8)


def _between(value: float, ticks: Sequence[float]) -> float:
    """Where a value lies among evenly spaced ticks."""
    return float(np.interp(value, ticks, range(len(ticks))))
