"""The cells of a grid before they are measured, column by column, and those of them that predictions rule out."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mdm_lightning.commands.sweep.plan import Overrides
from mdm_lightning.errors import UserError
from mdm_lightning.report.records import NOT_AT_ALL, PREDICTIONS, PREDICTOR, Cell, stands_for_linear


class Candidate(NamedTuple):
    """A cell of the grid that has not been measured, and the options that make it."""

    overrides: Overrides
    cell: Cell


def by_column(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """The different cells of each column, the one that others are compared with first."""
    columns: dict[object, dict[str, Candidate]] = {}
    for candidate in candidates:
        cell = candidate.cell
        columns.setdefault((cell.others, cell.steps, cell.bound), {}).setdefault(cell.id, candidate)
    return [sorted(column.values(), key=lambda one: stands_for_linear(one.cell)) for column in columns.values()]


def rule_out(columns: Iterable[Sequence[Candidate]], keep: int) -> list[Candidate]:
    """Those of each column that no profile counts among the best ``keep``. Hand-made schedules are never ruled out, nor
    is what no profile speaks of.

    Raises:
        UserError: no profile speaks of any of them.
    """
    ruled_out: list[Candidate] = []
    predicted = False
    for column in columns:
        values = {one.cell.id: _predictions(one.cell) for one in column if stands_for_linear(one.cell) == NOT_AT_ALL}
        predicted |= any(values.values())
        kept: set[str] = set()
        for name in {name for known in values.values() for name in known}:
            ranked = sorted((known[name], identity) for identity, known in values.items() if name in known)
            kept |= {identity for _, identity in ranked[:keep]}
        ruled_out += [one for one in column if values.get(one.cell.id) and one.cell.id not in kept]
    if not predicted:
        raise UserError("sweep.prune=predicted: no profile predicts what is swept here: leave it out")
    return ruled_out


def _predictions(cell: Cell) -> dict[str, float]:
    """By the names of the profiles."""
    return {str(row.settings[PREDICTOR]): row.value for row in cell.rows if row.metric in PREDICTIONS}
