"""The paper's energies as a study: quadrature against closed forms, and what it leaves behind."""

import math

import pytest

from mdm_lightning.diffusion.schedule import BetaSchedule, CosineSchedule, LinearSchedule, SquaredSineSchedule
from mdm_lightning.diffusion.theory.energy import MINIMUM
from mdm_lightning.evaluation.base import Nowhere
from mdm_lightning.evaluation.paper.figures_and_energies import (
    SCHEDULES,
    PaperFigures,
    closed_form,
    energy_rows,
    energy_text,
)


class Kept(Nowhere):
    """Keeps the names of figures and the texts."""

    def __init__(self) -> None:
        self.figures: list[str] = []
        self.texts: dict[str, str] = {}

    def figure(self, name, figure) -> None:
        self.figures.append(name)

    def text(self, name, text, *, markdown=False) -> None:
        self.texts[name] = text


def test_closed_forms_and_quadrature_agree():
    values = {
        (row.settings["schedule"], row.settings["weight"], row.settings["by"]): row.value for row in energy_rows()
    }
    closed = {key[:2]: value for key, value in values.items() if key[2] == "closed form"}
    assert len(closed) == 4 * 4 + 2, "four schedules of the Beta family, and two that are only compared with themselves"
    for pair, value in closed.items():
        assert values[*pair, "quadrature"] == pytest.approx(value, rel=1e-8)
    for (schedule, weight, _), value in values.items():
        assert value == pytest.approx(MINIMUM, rel=1e-8) if schedule == weight else value > MINIMUM * 1.01


def test_energies_known_by_hand():
    """Linear under the squared sine's weight: 1 / (t (1 - t)) diverges; the squared sine under linear's: pi^4 / 8."""
    assert closed_form(LinearSchedule(), SquaredSineSchedule()) == math.inf
    assert closed_form(SquaredSineSchedule(), LinearSchedule()) == pytest.approx(math.pi**4 / 8)
    assert closed_form(CosineSchedule(), LinearSchedule()) is None
    assert closed_form(CosineSchedule(), CosineSchedule()) == MINIMUM
    assert closed_form(BetaSchedule(0.5, 0.5), LinearSchedule()) == pytest.approx(MINIMUM)


def test_the_table_says_where_infinity_is():
    lines = energy_text(list(energy_rows())).splitlines()[-len(SCHEDULES) :]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["Linear", "Sine", "SquaredSine", "Cosine", "Beta(0.9, 0.3)", "Beta(0.3, 0.9)"]
    assert [row[i + 2] for i, row in enumerate(cells)] == ["1.00000*"] * len(SCHEDULES)
    linear = cells[0]
    assert linear[4] == "∞*"
    assert linear[5] == "∞"


def test_a_study_leaves_figures_texts_and_rows():
    outputs = Kept()
    rows = list(PaperFigures(steps=2, points=2).study(outputs))
    assert [name.split()[1] for name in outputs.figures] == ["2", "3", "4"]
    assert outputs.texts.keys() == {"energies"}
    assert {row.metric for row in rows} == {"energy"}
    with pytest.raises(ValueError, match="points"):
        PaperFigures(points=0)
