"""Which order and schedule is best in K steps, from the files of all seeds, and whether other seeds agree.

The best of many cells owes something to chance. So a seed's own gain is cross-fitted, chosen on every second instance
and scored on the others, both ways; and the choice of one seed is scored on the other seeds, whose model, sequences and
noise are others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mdm_lightning.diffusion.profile.cross_fitting import Estimate

Cell = Mapping[str, Any]
LINEAR = "Linear"


@dataclass(frozen=True)
class Grid:
    """The cells of one seed, one set of data and one step budget.

    Attributes:
        cells: by order and name of the schedule; scores of some are of the first instances only.
        baseline: random order with linear counts.
        sign: -1 where a lower score is better.
    """

    cells: Mapping[tuple[str, str], Cell]
    baseline: tuple[str, str]
    sign: int

    @classmethod
    def of(cls, found: Mapping[str, Any], steps: int) -> "Grid":
        """Of what was found of a text (nats per token) or a task (shares solved)."""
        text = "likelihood" in found
        every = found["likelihood" if text else "accuracy"]
        cells = {(cell["order"], cell["name"]): cell for cell in every if cell["steps"] == steps}
        return cls(cells, ("Random" if text else "Random, temperature 1", LINEAR), -1 if text else 1)

    def gains(self, key: tuple[str, str]) -> Float64[np.ndarray, " s"]:
        """What a cell gains over the baseline, instance by instance."""
        scores, base = (np.array(self.cells[k]["scores"]) for k in (key, self.baseline))
        n = min(len(scores), len(base))
        return self.sign * (scores[:n] - base[:n])

    def mean(self, key: tuple[str, str]) -> Estimate:
        return Estimate.of(self.gains(key))

    def best(self, part: slice = slice(None), order: str | None = None) -> tuple[str, str]:
        """The cell with the largest gain on some of the instances; of equals the first, the baseline before all."""
        keys = [self.baseline, *self.cells] if order is None else [key for key in self.cells if key[0] == order]
        return max(keys, key=lambda key: round(float(self.gains(key)[part].mean()), 6))

    def cross_fitted(self) -> Estimate:
        """The gain of the best cell on instances that did not choose it."""
        halves = [self.gains(self.best(slice(1 - half, None, 2)))[half::2] for half in (0, 1)]
        return Estimate.of(np.concatenate(halves))

    def label(self, key: tuple[str, str]) -> str:
        """Order and schedule in words."""
        name, schedule = self.cells[key]["name"], self.cells[key]["schedule"]
        shown = (
            schedule if name == schedule else re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.2f}", schedule)
        )
        return f"{key[0]} with {shown}" + ("" if name == schedule else " (advised)")


def budgets(found: Mapping[str, Any]) -> list[int]:
    """The step budgets that were measured."""
    return sorted({cell["steps"] for cell in found.get("likelihood", found.get("accuracy", []))})


def sure(gain: Estimate) -> bool:
    """Whether a gain is above zero by two standard errors."""
    return gain.value > 2 * gain.stderr


def replicated(grids: Sequence[Grid]) -> str:
    """What the other seeds say of the first one's choice, in words."""
    first, *others = grids
    gained = [sure(grid.cross_fitted()) for grid in grids]
    if not others:
        return "-"
    if not any(gained):
        return "nothing sure"
    if not all(gained) or not all(sure(grid.mean(first.best())) for grid in others):
        return "no"
    return "yes" if len({grid.best()[0] for grid in grids}) == 1 else "gain, not order"


def signed(gain: Estimate) -> str:
    """A gain with its standard error."""
    return f"{gain.value:+.3f} ± {gain.stderr:.3f}"
