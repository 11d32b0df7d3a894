"""Racing the schedules of a grid: who is significantly behind is not measured on all instances.

Nothing is kept of a race while it runs but the files of its cells, one per schedule and round. To go on with one is to
run it again: the rules are a function of the scores, and rounds that are finished are not measured twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mdm_lightning.commands.sweep.candidates import Candidate
from mdm_lightning.commands.sweep.plan import Overrides
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.race import RaceRecord


class _CellFailed(Exception):
    """A candidate cannot be measured, and so its race cannot go on."""


@dataclass(frozen=True)
class ColumnRace:
    """Runs the race of a column of cells.

    Attributes:
        rules: of the race.
        first: index of the first instance.
        available: instances from there on.
        measure: evaluates a cell with these options; None if it failed.
    """

    rules: Race
    first: int
    available: int
    measure: Callable[[Overrides], Row | None]

    def __call__(self, column: list[Candidate]) -> RaceRecord | None:
        """Runs a race, and has its winner compared with the first candidate on fresh instances.

        Returns:
            How it ended; None if it could not go on because a cell failed.

        Raises:
            UserError: the cells have no score per instance, or fewer instances than the race needs.
        """
        instances, _ = self.rules.split(self.available)
        fresh = self.first + instances

        def measure(number: int, first: int, n: int) -> Float64[np.ndarray, " n"]:
            stage = "race" if first < fresh else "refined"
            where = [f"sweep.stage={stage}", f"evaluation.first={first}", f"evaluation.sequences={n}"]
            row = self.measure([*column[number].overrides, *where])
            if row is None:
                raise _CellFailed
            return _scores(row, n)

        try:
            outcome = self.rules.run(len(column), measure, self.first, self.available)
        except _CellFailed:
            return None
        cells = [candidate.cell for candidate in column]
        left = {
            cell.label: len(runner.scores) for cell, runner in zip(cells, outcome.runners, strict=True) if runner.left
        }
        winner, level = cells[outcome.winner].label, self.rules.level
        return RaceRecord(cells[0].others, cells[0].steps, cells[0].bound, instances, left, winner, level)


def _scores(row: Row, n: int) -> Float64[np.ndarray, " n"]:
    """Higher is better."""
    if row.scores is None:
        raise UserError(f"sweep.race=true needs a score for every instance, which {row.metric} does not have")
    if not np.isfinite(row.scores).all():
        raise UserError(f"sweep.race=true needs finite scores, and of {row.metric} some are not")
    if len(row.scores) != n:
        raise UserError(
            f"sweep.race=true: {len(row.scores)} instances were measured where {n} were asked for: leave the number of "
            "instances to sweep.limit= and sweep.full="
        )
    return np.asarray(row.scores) * (1 if row.better == "higher" else -1)
