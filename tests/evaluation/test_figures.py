"""The figures carry labels and the data they were given."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from mdm_lightning.diffusion.schedule import BetaSchedule, CosineSchedule, LinearSchedule, TabulatedSchedule
from mdm_lightning.evaluation.figures import MOST_CURVES, profile_figure, profile_history_figure, schedule_figure


def assert_labelled(figure: Figure) -> None:
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_title()


@pytest.mark.parametrize("errors", [None, [0.1, 0.2, 0.3]])
def test_profile_figure(errors, tmp_path):
    figure = profile_figure([0.1, 0.5, 0.9], [5.0, 4.0, 3.0], errors)
    assert_labelled(figure)
    (axes,) = figure.axes
    assert axes.lines[0].get_xdata().tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert axes.lines[0].get_ydata().tolist() == [5, 4, 3]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_profile_figure_with_empty_intervals(tmp_path):
    profile_figure([0.25, 0.75], [math.nan, 2.0]).savefig(tmp_path / "figure.png")


def test_profile_history_figure(tmp_path):
    history = {10 * step: [(0.1, 5 - step / 50), (0.5, 4.0), (0.9, 3.0)][: 2 + (step > 0)] for step in range(100)}
    figure = profile_history_figure(history)
    axes = figure.axes[0]
    assert all((axes.get_xlabel(), axes.get_ylabel(), axes.get_title()))
    assert figure.axes[1].get_ylabel() == "optimizer step"
    assert len(axes.lines) == MOST_CURVES
    assert axes.lines[0].get_xdata().tolist() == pytest.approx([0.9, 0.5])
    assert axes.lines[-1].get_ydata().tolist() == pytest.approx([5 - 99 / 50, 4, 3])
    figure.savefig(tmp_path / "figure.png")
    profile_history_figure({7: [(0.5, 1.0)]}).savefig(tmp_path / "one.png")


def test_schedule_figure(tmp_path):
    schedules = {
        "linear": LinearSchedule(),
        "cosine": CosineSchedule(),
        "beta": BetaSchedule(0.9, 0.3),
        "table": TabulatedSchedule([0, 0.2, 1]),
    }
    figure = schedule_figure(schedules)
    assert_labelled(figure)
    left, right = figure.axes
    for axes, method in ((left, "alpha_t"), (right, "gamma_t")):
        assert [line.get_label() for line in axes.lines] == list(schedules)
        for line, schedule in zip(axes.lines, schedules.values(), strict=True):
            expected = getattr(schedule, method)(torch.as_tensor(line.get_xdata()))
            torch.testing.assert_close(torch.as_tensor(line.get_ydata()), expected)
    figure.savefig(tmp_path / "figure.png")


def test_figures_draw_on_no_screen():
    """Figures are plain objects: pyplot, which keeps every figure alive, is not involved."""
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    schedule_figure({"linear": LinearSchedule()})
    assert pyplot.get_fignums() == before
