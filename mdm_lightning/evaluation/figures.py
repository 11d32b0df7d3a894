"""Figures of schedules and loss profiles. Each function returns a matplotlib figure and draws on no screen."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from mdm_lightning.diffusion.schedule import MaskSchedule


def profile_figure(alphas: Sequence[float], nats: Sequence[float], errors: Sequence[float] | None = None) -> Figure:
    """The loss profile: mean cross-entropy at a masked position against the share of masked tokens."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(1 - np.asarray(alphas), nats, yerr=errors, marker="o", capsize=3)
    axes.set(xlabel="mask ratio  1 - α", ylabel="nats per masked token", title="Loss profile", xlim=(0, 1))
    axes.grid(alpha=0.3)
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
