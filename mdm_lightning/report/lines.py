"""Score against step budget: a line per schedule, for those that one can tell apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mdm_lightning.report.columns import Column, Entry, preferred, stages
from mdm_lightning.report.notation import stage, words
from mdm_lightning.report.records import in_order

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP*X"
CLOUD = "#b8b8b8"
REST = "other Beta pairs"

Styles = Mapping[str, Mapping[str, Any]]


def steps_figure(section: Sequence[Column]) -> Figure:
    """Score against step budget: hand-made schedules, each budget's best Beta pair, and the others as a grey cloud."""
    parts = stages(section)
    figure = Figure(figsize=(4.8 * len(parts) + 2.6, 4.6), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    styles = _styles(section)
    for axes, part in zip(panels, parts, strict=True):
        _draw(axes, part, styles)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in (*styles, REST) if label in handles]
    figure.legend([handles[label] for label in order], order, loc="outside right upper", frameon=False)
    return figure


def _draw(axes: Axes, part: Sequence[Column], styles: Styles) -> None:
    """One stage."""
    placed = [(x, column) for column in part if (x := place(column)) is not None]
    cloud = [(x, entry.value) for x, column in placed for entry in column.entries if entry.label not in styles]
    if cloud:
        axes.scatter(*zip(*cloud, strict=True), s=18, color=CLOUD, alpha=0.6, linewidths=0, label=REST)
    present = [label for label in styles if any(column.entry(label) for _, column in placed)]
    for number, label in enumerate(present):
        points = [(x, entry) for x, column in placed if (entry := column.entry(label))]
        # Error bars stand side by side: a factor on a log axis is the same distance everywhere.
        shift = 2 ** (0.035 * (number - (len(present) - 1) / 2))
        errors = [entry.stderr or 0 for _, entry in points]
        x, y = [x * shift for x, _ in points], [entry.value for _, entry in points]
        axes.errorbar(x, y, yerr=errors, label=label, capsize=2, markersize=5, linewidth=1.4, **styles[label])
    objective = part[0].objective
    score = f"{words(objective.metric)} ({objective.better} is better)"
    decided = "forward passes" if all(column.bound for column in part) else "step budget"
    axes.set(xlabel=decided, ylabel=score, title=stage(part), xscale="log")
    ticks = {x: _tick(column) for x, column in placed}
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: ticks.get(x, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


def _tick(column: Column) -> str:
    if column.steps is None:
        return "its own" if column.bound else "one per\ntoken"
    return f"at most\n{column.steps}" if column.bound else str(column.steps)


def place(column: Column) -> float | None:
    """Where a column stands on the axis: at its budget, or, where the sampler decides or takes a step per token, at the
    passes that took."""
    if column.steps is not None and not column.bound:
        return column.steps
    return max((passes for entry in column.entries if (passes := column.passes(entry))), default=None)


def _styles(section: Sequence[Column]) -> Styles:
    """How the schedules with a line of their own are drawn: hand-made ones dashed and grey, Beta pairs in colour."""
    entries = [entry for column in section for entry in column.entries]
    hand_made = _labels([entry for entry in entries if entry.cell.alpha is None])
    greys = np.linspace(0, 0.6, max(len(hand_made), 1))
    best = _labels([entry for column in preferred(section) for entry in _best_pair(column)])[: len(COLOURS)]
    dashed = {
        label: {"color": str(grey), "linestyle": "--", "marker": MARKERS[number % len(MARKERS)]}
        for number, (label, grey) in enumerate(zip(hand_made, greys, strict=False))
    }
    solid = {
        label: {"color": colour, "linestyle": "-", "marker": MARKERS[number % len(MARKERS)], "zorder": 3}
        for number, (label, colour) in enumerate(zip(best, COLOURS, strict=False))
    }
    return {**dashed, **solid}


def _labels(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.label for entry in sorted(entries, key=lambda entry: in_order(entry.cell))))


def _best_pair(column: Column) -> list[Entry]:
    pairs = [entry for entry in column.entries if entry.cell.alpha is not None]
    return sorted(pairs, key=lambda entry: -column.objective.sign * entry.value)[:1]
