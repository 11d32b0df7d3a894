"""Figures of schedules and loss profiles. Each function returns a matplotlib figure and draws on no screen."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.evaluation.generation.matched_entropy import Curve

MOST_CURVES = 30  # of one figure


def profile_figure(alphas: Sequence[float], nats: Sequence[float], errors: Sequence[float] | None = None) -> Figure:
    """The loss profile: mean cross-entropy at a masked position against the share of masked tokens."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(1 - np.asarray(alphas), nats, yerr=errors, marker="o", capsize=3)
    axes.set(xlabel="mask ratio  1 - α", ylabel="nats per masked token", title="Loss profile", xlim=(0, 1))
    axes.grid(alpha=0.3)
    return figure


def profile_history_figure(history: Mapping[int, Sequence[tuple[float, float]]]) -> Figure:
    """The loss profile at several validations of a run, from dark (early) to light (late).

    Args:
        history: by optimizer step, pairs of the kept share alpha and nats per masked token.
    """
    figure = Figure(figsize=(6.6, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = sorted(history)
    shown = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, MOST_CURVES).round().astype(int))]
    colours = ScalarMappable(Normalize(steps[0], max(steps[-1], steps[0] + 1)), "viridis")
    for step in shown:
        alphas, nats = np.asarray(history[step]).T
        axes.plot(1 - alphas, nats, marker=".", color=colours.to_rgba(step))
    axes.set(xlabel="mask ratio  1 - α", ylabel="nats per masked token", title="Loss profile over time", xlim=(0, 1))
    axes.grid(alpha=0.3)
    figure.colorbar(colours, ax=axes, label="optimizer step")
    return figure


def schedule_figure(schedules: dict[str, MaskSchedule]) -> Figure:
    """alpha_t and gamma_t of each schedule over time, t = 0 all masked."""
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    for name, schedule in schedules.items():
        left.plot(t, schedule.alpha_t(t), label=name)
        right.plot(t, schedule.gamma_t(t), label=name)
    left.set(xlabel="time t  (0 = all masked)", ylabel="kept share  α", title="Mask schedule α(t)")
    right.set(xlabel="time t  (0 = all masked)", ylabel="γ", title="Interpolation schedule γ(t)")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def frontier_figure(
    curves: Mapping[str, Curve], held_out: tuple[float, float] | None = None, matched: float | None = None
) -> Figure:
    """Generative frontiers: the scorer's nats per token against the entropy of the text, with standard errors.

    Args:
        curves: by name.
        held_out: entropy and nats per token of held-out text.
        matched: the entropy at which the curves are compared.
    """
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in list(curves.items())[:MOST_CURVES]:
        places = []
        for values in (curve.entropy, curve.nats):
            places.append((values.mean(1), values.std(1, ddof=1) / values.shape[1] ** 0.5))
        (x, x_error), (y, y_error) = places
        axes.errorbar(x, y, xerr=x_error, yerr=y_error, marker="o", markersize=4, capsize=2, linewidth=1.2, label=name)
    if held_out is not None:
        axes.plot(*held_out, marker="*", markersize=12, linestyle="", color="black", label="held-out text")
    if matched is not None:
        axes.axvline(matched, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="unigram entropy of a text (nats)", ylabel="scorer, nats per token", title="Generative frontier")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
