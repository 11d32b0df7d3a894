"""Figures of the advice: where the chosen schedules put their steps, how the gap depends on them, and the race."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mdm_lightning.diffusion.profile.counts import alphas_on_grid
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.evaluation.advice.checks import Checked
from mdm_lightning.evaluation.statistics import standard_error

LANDSCAPE = np.geomspace(0.1, 4, 41)  # values of alpha and of beta
TICKS = (0.1, 0.3, 1, 3)


def grid_figure(profile: LossProfile, chosen: Mapping[int, BetaSchedule]) -> Figure:
    """The loss profile, and the staircase under which each chosen schedule's NELBO is the area."""
    figure = Figure(figsize=(4.2 * len(chosen), 3.8), layout="constrained")
    every = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    alphas = np.linspace(0, 1, 201)
    for axes, (steps, schedule) in zip(every, chosen.items(), strict=True):
        grid = alphas_on_grid(schedule, steps)
        heights = profile.h(grid[:-1])
        axes.plot(alphas, profile.h(alphas), color="black", label="loss profile h(α)")
        axes.stairs(heights, grid, fill=True, alpha=0.25, color="tab:blue")
        axes.plot(grid[:-1], heights, "o", markersize=4, color="tab:blue", label="steps")
        axes.set(xlabel="kept share α", title=f"{steps} steps: Beta({schedule.alpha:.3g}, {schedule.beta:.3g})")
        axes.set(xlim=(0, 1), ylim=(0, None))
        axes.grid(alpha=0.3)
    every[0].set_ylabel("nats per masked token")
    every[0].legend()
    return figure


def landscape_figure(profile: LossProfile, chosen: Mapping[int, BetaSchedule]) -> Figure:
    """The predicted gap over (alpha, beta), both axes logarithmic, one panel per step budget."""
    figure = Figure(figsize=(4.4 * len(chosen), 4), layout="constrained")
    every = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    alpha, beta = np.meshgrid(LANDSCAPE, LANDSCAPE)
    parameters = np.stack([alpha.ravel(), beta.ravel()], axis=1)
    whole = profile.nelbo(BetaSchedule()).value
    for axes, (steps, schedule) in zip(every, chosen.items(), strict=True):
        gaps = (profile.nelbo_of_betas(parameters, steps) - whole).reshape(alpha.shape) / profile.length
        levels = np.unique(np.quantile(gaps, np.linspace(0, 1, 16)))
        if len(levels) == 1:  # with one step all schedules are equal
            levels = levels + np.array([-0.5, 0.5])
        filled = axes.contourf(alpha, beta, gaps, levels=levels, cmap="viridis_r")
        figure.colorbar(filled, ax=axes, format="%.3g", label="gap (nats per token)" if axes is every[-1] else None)
        axes.plot(schedule.alpha, schedule.beta, "*", color="red", markersize=14, label="best")
        axes.plot(0.5, 0.5, "o", color="white", markeredgecolor="black", label="linear")
        axes.plot(1, 1, "s", color="white", markeredgecolor="black", label="squared sine")
        axes.set(xscale="log", yscale="log", xlabel="alpha", title=f"{steps} steps")
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
    every[0].set_ylabel("beta")
    every[0].legend(loc="upper left")
    return figure


def race_figure(found: Sequence[Checked]) -> Figure:
    """The proposals for each step budget by their scores in the race, with 95 % intervals; those that left early are
    pale, what to use is red. One that cannot produce an instance has an infinite score, and no point."""
    most = max(len(checked.proposals) for checked in found)
    figure = Figure(figsize=(5.2 * len(found), 1.2 + 0.32 * most), layout="constrained")
    for axes, checked in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        pairs = zip(checked.proposals, checked.outcome.runners, strict=True)
        ranked = sorted(enumerate(pairs), key=lambda item: item[1][1].mean)
        for place, (number, (_, runner)) in enumerate(ranked):
            if not np.isfinite(runner.mean):
                continue
            error = 1.96 * (standard_error(runner.scores.tolist()) or 0.0)
            colour = "tab:red" if number == checked.outcome.use else "tab:blue"
            shade = 0.35 if runner.left else 1.0
            axes.errorbar(checked.sign * runner.mean, place, xerr=error, fmt="o", color=colour, alpha=shade)
        labels = [pair[0].label if len(pair[0].label) < 36 else f"{pair[0].label[:33]}..." for _, pair in ranked]
        axes.set_yticks(range(len(ranked)), labels, fontsize=8)
        axes.set(title=f"{checked.steps} steps", xlabel=checked.metric.replace("_", " "))
        axes.grid(alpha=0.3)
    return figure
