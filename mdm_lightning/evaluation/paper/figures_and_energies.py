"""The paper's figures and energies as an evaluation: formulas and enumeration, no checkpoint.

Source: *Masked Diffusion Models as Energy Minimization* (Chen et al., NeurIPS 2025), figures 2-5 and 7, and
proposition 3.7, which says under which weight each of the customary schedules is optimal.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mdm_lightning.arguments import check_numbers
from mdm_lightning.data.tasks.toy import balanced, extremes
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    CosineSchedule,
    LinearSchedule,
    MaskSchedule,
    SineSchedule,
    SquaredSineSchedule,
)
from mdm_lightning.diffusion.theory.energy import MINIMUM, beta_energy, energy
from mdm_lightning.evaluation.base import Outputs, Row, Study
from mdm_lightning.evaluation.description import describe
from mdm_lightning.evaluation.paper.exact_distribution import ExactSampler
from mdm_lightning.evaluation.paper.figures import (
    beta_curves,
    energy_landscapes,
    read_scores,
    score_curves,
    toy_landscape,
    toy_landscapes,
)
from mdm_lightning.tables import markdown_table

SCHEDULES: Mapping[MaskSchedule, str] = {
    LinearSchedule(): "(2/π) arcsin √t",
    SineSchedule(): "(2/π) arcsin √(sin(πt/2))",
    SquaredSineSchedule(): "t",
    CosineSchedule(): "(2/π) arcsin √(1 − cos(πt/2))",
    BetaSchedule(0.9, 0.3): "I_t(0.9, 0.3)",
    BetaSchedule(0.3, 0.9): "I_t(0.3, 0.9)",
}
"""The schedules of the table of energies, and the weight γ under which each is optimal."""

_PARAMETERS = {LinearSchedule(): (0.5, 0.5), SquaredSineSchedule(): (1.0, 1.0)}
"""What the schedules with names of their own are in the Beta family."""


@dataclass(frozen=True)
class PaperFigures(Study):
    """Draws figures 2, 3 and 4, computes the energies of the customary schedules, and redraws figures 5 and 7.

    Args:
        steps: sampling steps of the toys in figure 4.
        points: parameters per axis there, over (0, 2].
        results: a CSV of scores for figures 5 and 7 (see ``read_scores``); None leaves them out.

    Raises:
        ValueError: a number is not positive.
    """

    steps: int = 3
    points: int = 20
    results: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self, steps=1, points=1)

    def study(self, outputs: Outputs) -> Iterator[Row]:
        """Raises:
        UserError: the scores cannot be read.
        """
        scores = None if self.results is None else read_scores(self.results)
        outputs.figure("figure 2 energy landscapes", energy_landscapes())
        outputs.figure("figure 3 beta curves", beta_curves())
        parameters = np.linspace(0, 2, self.points + 1)[1:]
        samplers = {distribution.name: ExactSampler(distribution) for distribution in (extremes(), balanced())}
        toys = {name: toy_landscape(exact, parameters, parameters, self.steps) for name, exact in samplers.items()}
        outputs.figure("figure 4 toys", toy_landscapes(toys, self.steps))
        if scores is not None:
            outputs.figure("figures 5 and 7 scores", score_curves(scores))
        rows = list(energy_rows())
        outputs.text("energies", energy_text(rows), markdown=True)
        yield from rows


def closed_form(schedule: MaskSchedule, weight: MaskSchedule) -> float | None:
    """E[alpha; gamma] without quadrature: pi^2 where the weight is the schedule's own, the formula for two schedules of
    the Beta family; None for others."""
    if schedule == weight:
        return MINIMUM
    parameters = [_beta_parameters(each) for each in (schedule, weight)]
    if parameters[0] is None or parameters[1] is None:
        return None
    return float(beta_energy(*parameters[0], *parameters[1]))


def energy_rows() -> Iterator[Row]:
    """The energy of every schedule under every other's weight, by quadrature and in closed form where there is one."""
    for schedule in SCHEDULES:
        for weight in SCHEDULES:
            settings = {"schedule": describe(schedule), "weight": describe(weight)}
            yield Row(
                "energy", energy(schedule, weight), None, 1, {**settings, "by": "quadrature"}, "lower", exact=True
            )
            exact = closed_form(schedule, weight)
            if exact is not None:
                yield Row("energy", exact, None, 1, {**settings, "by": "closed form"}, "lower", exact=True)


def energy_text(rows: list[Row]) -> str:
    """The energies as a table in multiples of their minimum; what has a closed form, too, is marked."""
    names = [describe(schedule) for schedule in SCHEDULES]
    by_method = {
        method: {
            (row.settings["schedule"], row.settings["weight"]): row.value
            for row in rows
            if row.settings["by"] == method
        }
        for method in ("quadrature", "closed form")
    }
    cells = []
    for name, gamma in zip(names, SCHEDULES.values(), strict=True):
        energies = [
            _ratio(by_method["quadrature"][name, weight], (name, weight) in by_method["closed form"])
            for weight in names
        ]
        cells.append([name, gamma, *energies])
    words = ["Energy E[α; γ] / π² of each schedule (row) under the weight γ for which another is optimal (column),"]
    words += ["by quadrature; * where results.csv has the closed form, too:", ""]
    return "\n".join([*words, markdown_table(["schedule", "optimal for γ =", *names], cells, left=2)])


def _ratio(value: float, known: bool) -> str:
    ratio = "∞" if math.isinf(value) else f"{value / MINIMUM:.5f}"
    return ratio + "*" * known


def _beta_parameters(schedule: MaskSchedule) -> tuple[float, float] | None:
    if isinstance(schedule, BetaSchedule):
        return schedule.alpha, schedule.beta
    return _PARAMETERS.get(schedule)
