"""The figures of a study, each with the numbers that it shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from mdm_lightning.diffusion.profile.cross_fitting import Estimate
from mdm_lightning.files import to_json, write_atomically
from mdm_lightning.report.lines import COLOURS, MARKERS
from study_parts.answers import Grid, budgets

NAMES = {"stdlib": "Python", "english": "English"}
TEN_COLOURS = (*COLOURS, "black", "#7f7f7f", "#8c564b", "#bcbd22")
STYLES = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """A curve of one seed with standard errors."""

    label: str
    seed: int
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float]


class Panel(NamedTuple):
    """One of a figure's axes."""

    title: str
    lines: Sequence[Line]
    xlabel: str
    ylabel: str
    ticks: Sequence[int] = ()
    """Of a logarithmic axis; none for a linear one."""
    at: Sequence[float] = ()
    """Places of vertical lines, one for each seed."""


Seeds = Mapping[int, Mapping[str, Any]]


def write_figures(found: Mapping[str, Seeds], folder: Path) -> None:
    """A PNG and its numbers in JSON for each figure that there is something for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, panels_of in FIGURES.items():
        panels = [panel for panel in panels_of(found) if panel.lines]
        if panels:
            draw(panels).savefig(folder / f"{name}.png", dpi=110)
            content = [{**panel._asdict(), "lines": [line._asdict() for line in panel.lines]} for panel in panels]
            write_atomically(folder / f"{name}.json", to_json(content, indent=None))


def draw(panels: Sequence[Panel], columns: int = 2) -> Figure:
    """The panels, a colour for each label and a line style for each seed."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns + 2.2, 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    seeds = sorted({line.seed for panel in panels for line in panel.lines})
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, labels, seeds)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    note = None if len(seeds) == 1 else ", ".join(f"{_dash(i)} seed {seed}" for i, seed in enumerate(seeds))
    shown = [label for label in labels if label in handles]
    figure.legend(
        [handles[label] for label in shown], shown, loc="outside right upper", frameon=False, title=note,
        fontsize="small", title_fontsize="small",
    )  # fmt: skip
    return figure


def _dash(number: int) -> str:
    return ("solid", "dashed", "dotted", "dash-dotted")[number % len(STYLES)]


def _draw(axes: Axes, panel: Panel, labels: Sequence[str], seeds: Sequence[int]) -> None:
    for line in panel.lines:
        number, seed = labels.index(line.label), seeds.index(line.seed)
        axes.errorbar(
            line.x, line.y, yerr=line.error, capsize=2, markersize=4, linewidth=1.2, alpha=1 if seed == 0 else 0.7,
            linestyle=STYLES[seed % len(STYLES)], marker=MARKERS[number % len(MARKERS)],
            color=TEN_COLOURS[number % len(TEN_COLOURS)], label=line.label if seed == 0 else None,
        )  # fmt: skip
    for place, style in zip(panel.at, STYLES, strict=False):
        axes.axvline(place, color="black", linewidth=0.8, linestyle=style, alpha=0.6)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    if panel.ticks:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(panel.ticks)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


def _name(data: str) -> str:
    return NAMES.get(data, data)


def profile_panels(found: Mapping[str, Seeds]) -> Iterator[Panel]:
    lines = [
        Line(_name(data), seed, [1 - r / part["length"] for r in part["revealed"]], part["nats"], part["stderr"])
        for data, seeds in found.items()
        for seed, one in seeds.items()
        if (part := one.get("profile"))
    ]
    yield Panel("Loss profile", lines, "share of tokens masked", "nats per masked token")


def _over_budgets(
    found: Mapping[str, Seeds], part: str, keys: Callable[[Grid], Mapping[str, tuple[str, str]]], title: str,
    ylabel: str, of: Callable[[Grid, tuple[str, str]], Estimate],
) -> Iterator[Panel]:  # fmt: skip
    """A panel for each set of data, with a line for each key over the step budgets."""
    for data, seeds in found.items():
        lines, ticks = [], []
        for seed, one in seeds.items():
            if part not in one:
                continue
            ticks = budgets(one)
            grids = [Grid.of(one, steps) for steps in ticks]
            for label in keys(grids[0]):
                values = [of(grid, keys(grid)[label]) for grid in grids]
                lines.append(Line(label, seed, ticks, [v.value for v in values], [v.stderr for v in values]))
        yield Panel(title.format(_name(data)), lines, "steps", ylabel, ticks)


def _absolute(grid: Grid, key: tuple[str, str]) -> Estimate:
    return Estimate.of(np.array(grid.cells[key]["scores"]))


def order_panels(found: Mapping[str, Seeds]) -> Iterator[Panel]:
    def linear(grid: Grid) -> dict[str, tuple[str, str]]:
        return {key[0]: key for key in grid.cells if key[1] == "Linear"}

    yield from _over_budgets(
        found, "likelihood", linear, "{}, linear counts", "nats/token less than random", lambda g, k: g.mean(k)
    )


def schedule_panels(found: Mapping[str, Seeds]) -> Iterator[Panel]:
    for order in ("Random", "Spaced"):

        def of_order(grid: Grid, order: str = order) -> dict[str, tuple[str, str]]:
            return {key[1]: key for key in grid.cells if key[0] == order}

        def over_linear(grid: Grid, key: tuple[str, str]) -> Estimate:
            return Estimate.of(grid.gains(key) - grid.gains((key[0], "Linear")))

        yield from _over_budgets(
            found, "likelihood", of_order, f"{{}}, {order} order", "nats/token less than linear", over_linear
        )


def task_panels(found: Mapping[str, Seeds]) -> Iterator[Panel]:
    for schedule in ("Linear", "Beta(0.5, 0.9)"):

        def greedy(grid: Grid, name: str = schedule) -> dict[str, tuple[str, str]]:
            keys = [key for key in grid.cells if key[1] == name and key[0].endswith("temperature 0")]
            return {key[0].split(", ")[0]: key for key in keys}

        yield from _over_budgets(found, "accuracy", greedy, f"{{}}, {schedule} counts", "share solved", _absolute)


def frontier_panels(found: Mapping[str, Seeds]) -> Iterator[Panel]:
    for data, seeds in found.items():
        curves = [(seed, c) for seed, one in seeds.items() if "frontier" in one for c in one["frontier"]["curves"]]
        for steps in dict.fromkeys(curve["steps"] for _, curve in curves):
            lines = []
            for seed, curve in curves:
                if curve["steps"] == steps:
                    nats = np.array(curve["nats"])
                    error = (nats.std(1, ddof=1) / nats.shape[1] ** 0.5).tolist()
                    x, y = np.array(curve["entropy"]).mean(1).tolist(), nats.mean(1).tolist()
                    lines.append(Line(curve["order"], seed, x, y, error))
            held_out = [one["frontier"]["held_out"][0] for one in seeds.values() if "frontier" in one]
            title, xlabel = f"{_name(data)}, {steps} steps", "entropy of a text's tokens (nats)"
            yield Panel(title, lines, xlabel, "scorer's nats per token", at=held_out)


def adaptive_panels(found: Mapping[str, Seeds]) -> Iterator[Panel]:
    for data, seeds in found.items():
        lines = []
        for seed, one in seeds.items():
            groups: dict[str, list[tuple[float, Estimate]]] = {}
            for cell in one.get("adaptive", []):
                kind, passes = cell["count"].split("(")[0], float(np.mean(cell["passes"]))
                groups.setdefault(kind, []).append((passes, Estimate.of(np.array(cell["scores"]))))
                for order, scores in cell["planned"].items():
                    groups.setdefault(f"{order}, planned", []).append((cell["steps"], Estimate.of(np.array(scores))))
            for label, points in groups.items():
                points.sort(key=lambda point: point[0])
                values = [estimate for _, estimate in points]
                x = [x for x, _ in points]
                lines.append(Line(label, seed, x, [v.value for v in values], [v.stderr for v in values]))
        yield Panel(_name(data), lines, "forward passes", "nats/token", (1, 2, 4, 8, 16, 32, 64, 128))


FIGURES: Mapping[str, Callable[[Mapping[str, Seeds]], Iterator[Panel]]] = {
    "profiles": profile_panels,
    "orders": order_panels,
    "schedules": schedule_panels,
    "frontiers": frontier_panels,
    "adaptive": adaptive_panels,
    "tasks": task_panels,
}
