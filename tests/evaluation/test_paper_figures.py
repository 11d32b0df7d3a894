"""The paper's figures show what was computed."""

import math

import numpy as np
import pytest
import torch

from mdm_lightning.data.tasks.toy import balanced, extremes
from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.diffusion.theory.energy import beta_energy
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.paper.exact_distribution import ExactSampler, divergence, total_variation
from mdm_lightning.evaluation.paper.figures import (
    beta_curves,
    energy_landscapes,
    read_scores,
    score_curves,
    toy_landscape,
    toy_landscapes,
)
from mdm_lightning.sampling.count import Binomial, Expected

HEADER = "benchmark,gen_length,alpha,beta,mask_schedule,steps,score,std\n"
ROWS = (
    "MBPP,256,0.5,0.5,linear,8,0.2,0.2\nMBPP,256,0.5,0.5,linear,64,16.4,1.7\n"
    "MBPP,256,0.9,0.3,beta,8,4.6,1\nMBPP,256,0.9,0.3,beta,64,34.8,2\nMBPP,256,,,squared_sine,64,20,2\n"
    "GSM8K,128,0.9,0.3,beta,32,29.5,1.3\n"
)


def stars(axes) -> list[tuple[float, float]]:
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "*"]


def saved(figure, path) -> None:
    figure.savefig(path / "figure.png")
    assert (path / "figure.png").stat().st_size > 5000


def test_energy_landscapes(tmp_path):
    """The star is where the drawn energies are least, and infinite ones are not drawn."""
    weights = [(0.5, 0.5), (0.9, 0.3), (0.4, 0.7), (1.0, 1.0)]
    figure = energy_landscapes(weights, highest=1.2, points=13)
    panels = [axes for axes in figure.axes if axes.get_title()]
    for (a, b), panel in zip(weights, panels, strict=True):
        assert stars(panel) == [(a, b)]
        drawn = panel.collections[0].get_array().reshape(12, 12)
        parameters = np.linspace(0, 1.2, 13)[1:]
        row, column = np.unravel_index(drawn.argmin(), drawn.shape)
        assert (parameters[column], parameters[row]) == pytest.approx((a, b))
        for i, j in ((0, 0), (3, 7), (11, 2)):
            energy = float(beta_energy(parameters[j], parameters[i], a, b))
            if math.isinf(energy):
                assert drawn.mask[i, j]
            else:
                assert drawn[i, j] == pytest.approx(energy / math.pi**2)
        assert panel.get_xlabel()
        assert panel.get_ylabel()
    saved(figure, tmp_path)


def test_beta_curves(tmp_path):
    figure = beta_curves([(0.9, 0.3), (0.5, 0.5)])
    left, _ = figure.axes
    assert [line.get_label() for line in left.lines] == ["Beta(0.9, 0.3)", "Beta(0.5, 0.5)"]
    expected = BetaSchedule(0.9, 0.3).alpha_t(torch.as_tensor(left.lines[0].get_xdata()))
    assert left.lines[0].get_ydata() == pytest.approx(expected.numpy())
    saved(figure, tmp_path)


@pytest.mark.parametrize("count", [None, Expected()])
def test_toy_landscapes(count, tmp_path):
    alphas, betas = [0.3, 0.5, 0.9], [0.3, 0.9]
    samplers = {"extremes": ExactSampler(extremes()), "balanced": ExactSampler(balanced())}
    toys = {name: toy_landscape(sampler, alphas, betas, 3, count) for name, sampler in samplers.items()}
    distribution = samplers["balanced"].distribution(BetaSchedule(0.9, 0.3), 3, count or Binomial())
    assert toys["balanced"].variation[0, 2] == total_variation(samplers["balanced"].target, distribution)
    assert toys["balanced"].divergence[0, 2] == divergence(samplers["balanced"].target, distribution)
    figure = toy_landscapes(toys)
    panels = [axes for axes in figure.axes if axes.get_title()]
    shown = [values for toy in toys.values() for values in (toy.variation, toy.divergence)]
    for panel, values in zip(panels, shown, strict=True):
        ((a, b),) = stars(panel)
        assert values[betas.index(b), alphas.index(a)] == values.min()
    saved(figure, tmp_path)


def test_score_curves(tmp_path):
    (tmp_path / "scores.csv").write_text(HEADER + ROWS)
    scores = read_scores(tmp_path / "scores.csv")
    assert {row.schedule for row in scores} == {"linear", "Beta(0.9, 0.3)", "squared sine"}
    figure = score_curves(scores)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("MBPP (length 256)", "GSM8K (length 128)")
    assert first.get_xscale() == "log"
    lines = {line.get_label(): line for line in first.lines}
    assert lines["Beta(0.9, 0.3)"].get_xydata().tolist() == [[8, 4.6], [64, 34.8]]
    assert second.lines[0].get_color() == lines["Beta(0.9, 0.3)"].get_color(), "one colour per schedule in all panels"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "Beta(0.9, 0.3)", "squared sine"]
    saved(figure, tmp_path)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", HEADER + "MBPP,256,,,linear,eight,1,1\n", HEADER + "MBPP,256\n"])
def test_other_tables_are_refused(content, tmp_path):
    (tmp_path / "scores.csv").write_text(content)
    with pytest.raises(UserError, match=r"scores\.csv"):
        read_scores(tmp_path / "scores.csv")


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_scores(tmp_path / "none.csv")
