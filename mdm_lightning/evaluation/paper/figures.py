"""The figures of *Masked Diffusion Models as Energy Minimization* (Chen et al., NeurIPS 2025), recomputed.

Each function returns a matplotlib figure and draws on no screen.
"""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.diffusion.theory.energy import MINIMUM, beta_energy
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.figures import schedule_figure
from mdm_lightning.evaluation.paper.exact_distribution import ExactSampler, divergence, total_variation
from mdm_lightning.sampling.count import Binomial, PlannedCount

Pair = tuple[float, float]

WEIGHTS: Sequence[Pair] = ((0.5, 0.5), (1.0, 1.0), (0.7, 0.5), (0.9, 0.3), (0.3, 0.9), (1.0, 0.2))
"""Parameters (a, b) of the Beta weights shown by default."""

COLORS = [*color_sequences["Dark2"], "black", "tab:blue", "tab:red", "tab:olive"]
"""Colours of schedules, in turn; more than the paper's tables have schedules."""

_TOO_HIGH = 2.0  # energies are drawn up to so many times the minimum


def energy_landscapes(weights: Sequence[Pair] = WEIGHTS, highest: float = 1.5, points: int = 121) -> Figure:
    """Figure 2: the energy of every Beta(a', b') schedule under several Beta weights, its minimum starred.

    Args:
        weights: parameters (a, b) of the weights, one panel each.
        highest: the schedules' parameters run up to here.
        points: parameters per axis.
    """
    columns = min(3, len(weights))
    rows = math.ceil(len(weights) / columns)
    figure = Figure(figsize=(3.3 * columns + 1, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    parameters = np.linspace(0, highest, points)[1:]
    mesh = None
    for panel, (a, b) in zip(panels, weights, strict=False):
        energies = beta_energy(parameters[None], parameters[:, None], a, b) / MINIMUM
        mesh = panel.pcolormesh(
            parameters,
            parameters,
            np.ma.masked_invalid(energies),
            vmin=1,
            vmax=_TOO_HIGH,
            shading="nearest",
            rasterized=True,
        )
        panel.contour(
            parameters,
            parameters,
            np.ma.masked_invalid(energies),
            levels=[1.01, 1.05, 1.2, 1.5],
            colors="white",
            linewidths=0.7,
        )
        panel.plot(a, b, marker="*", color="red", markeredgecolor="white", markersize=15, linestyle="none")
        panel.set(title=f"weight γ: Beta({a:g}, {b:g})", xlabel="schedule: a'", ylabel="schedule: b'")
        panel.set(xlim=(0, highest), ylim=(0, highest), facecolor="0.85", aspect="equal")
    for unused in panels[len(weights) :]:
        unused.remove()
    if mesh is not None:
        figure.colorbar(mesh, ax=panels[: len(weights)].tolist(), label="energy / π²  (grey: infinite)", extend="max")
    return figure


def beta_curves(parameters: Sequence[Pair] = WEIGHTS) -> Figure:
    """Figure 3: gamma_t and alpha_t of several Beta schedules."""
    return schedule_figure({f"Beta({a:g}, {b:g})": BetaSchedule(a, b) for a, b in parameters})


class ToyLandscape(NamedTuple):
    """How far the output of the K-step sampler is from a distribution, over a grid of Beta schedules."""

    alphas: Float64[np.ndarray, " a"]
    betas: Float64[np.ndarray, " b"]
    variation: Float64[np.ndarray, "b a"]
    """Total variation between the distribution and the sampler's output."""
    divergence: Float64[np.ndarray, "b a"]
    """KL(distribution || sampler's output) in nats."""


def toy_landscape(
    sampler: ExactSampler,
    alphas: Sequence[float] | Float64[np.ndarray, " a"],
    betas: Sequence[float] | Float64[np.ndarray, " b"],
    steps: int = 3,
    count: PlannedCount | None = None,
) -> ToyLandscape:
    """Both distances for every pair of parameters; by default with the independent reverse step."""
    count = count or Binomial()
    distributions = [
        [sampler.distribution(BetaSchedule(float(a), float(b)), steps, count) for a in alphas] for b in betas
    ]
    return ToyLandscape(
        np.asarray(alphas, dtype=np.float64),
        np.asarray(betas, dtype=np.float64),
        np.array([[total_variation(sampler.target, distribution) for distribution in row] for row in distributions]),
        np.array([[divergence(sampler.target, distribution) for distribution in row] for row in distributions]),
    )


def toy_landscapes(toys: Mapping[str, ToyLandscape], steps: int = 3) -> Figure:
    """Figure 4: total variation and divergence over Beta(a, b) for several distributions, the best grid point
    starred."""
    figure = Figure(figsize=(8.2, 3.5 * len(toys)), layout="constrained")
    rows = figure.subplots(len(toys), 2, squeeze=False)
    for (left, right), (name, toy) in zip(rows, toys.items(), strict=True):
        _landscape(figure, left, toy, toy.variation, "total variation")
        _landscape(figure, right, toy, toy.divergence, "KL in nats")
        left.set_title(f"{name}: total variation, {steps} steps")
        right.set_title(f"{name}: KL(distribution ‖ sampler), {steps} steps")
    return figure


class ScoreRow(NamedTuple):
    """A benchmark's score under one schedule and step budget."""

    benchmark: str
    gen_length: int
    schedule: str
    steps: int
    score: float
    std: float


def read_scores(path: str | Path) -> list[ScoreRow]:
    """Reads a CSV with columns benchmark, gen_length, alpha, beta, mask_schedule, steps, score and std.

    A schedule with parameters is called Beta(alpha, beta) if its name says beta, and by its name otherwise.

    Raises:
        UserError: the file cannot be read or has other columns.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = [_score_row(row) for row in csv.DictReader(file, restval="")]
    except OSError as error:
        raise UserError(f"cannot read the scores {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        columns = "benchmark, gen_length, alpha, beta, mask_schedule, steps, score, std"
        raise UserError(f"{path} is no table of scores ({error}); it needs the columns {columns}") from error
    if not rows:
        raise UserError(f"{path} contains no scores")
    return rows


def score_curves(scores: Sequence[ScoreRow]) -> Figure:
    """Figures 5 and 7: score against steps for every schedule, one panel per benchmark, bands of one std.

    The axis of steps is logarithmic.
    """
    benchmarks = list(dict.fromkeys((row.benchmark, row.gen_length) for row in scores))
    colors = dict(zip(dict.fromkeys(row.schedule for row in scores), itertools.cycle(COLORS), strict=False))
    columns = min(3, len(benchmarks))
    rows = math.ceil(len(benchmarks) / columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    handles: dict[str, Line2D] = {}
    for panel, (benchmark, length) in zip(panels, benchmarks, strict=False):
        measured = [row for row in scores if (row.benchmark, row.gen_length) == (benchmark, length)]
        handles |= _score_panel(panel, measured, colors)
        panel.set(title=f"{benchmark} (length {length})", xlabel="sampling steps", ylabel="score")
    for unused in panels[len(benchmarks) :]:
        unused.remove()
    shown = [handles[name] for name in colors]
    figure.legend(shown, list(colors), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _score_panel(panel: Axes, scores: Sequence[ScoreRow], colors: Mapping[str, Any]) -> dict[str, Line2D]:
    """Draws one benchmark's curves; returns their lines by schedule."""
    lines = {}
    for name in dict.fromkeys(row.schedule for row in scores):
        curve = sorted((row.steps, row.score, row.std) for row in scores if row.schedule == name)
        steps, values, errors = np.array(curve).T
        (lines[name],) = panel.plot(steps, values, marker="o", markersize=3, color=colors[name], label=name)
        panel.fill_between(steps, values - errors, values + errors, color=colors[name], alpha=0.12, linewidth=0)
    ticks = sorted({row.steps for row in scores})
    panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.grid(alpha=0.3)
    return lines


def _landscape(figure: Figure, panel: Axes, toy: ToyLandscape, values: Float64[np.ndarray, "b a"], label: str) -> None:
    mesh = panel.pcolormesh(toy.alphas, toy.betas, np.ma.masked_invalid(values), shading="nearest", rasterized=True)
    row, column = np.unravel_index(np.argmin(values), values.shape)
    best = (float(toy.alphas[column]), float(toy.betas[row]))
    panel.plot(*best, marker="*", color="red", markeredgecolor="white", markersize=15, linestyle="none", clip_on=False)
    panel.set(xlabel="a", ylabel="b")
    figure.colorbar(mesh, ax=panel, label=f"{label}  (best {values.min():.4f})")


def _score_row(row: Mapping[str, str]) -> ScoreRow:
    name = row["mask_schedule"]
    if name == "beta":
        name = f"Beta({float(row['alpha']):g}, {float(row['beta']):g})"
    return ScoreRow(
        row["benchmark"],
        int(row["gen_length"]),
        name.replace("_", " "),
        int(row["steps"]),
        float(row["score"]),
        float(row["std"]),
    )
