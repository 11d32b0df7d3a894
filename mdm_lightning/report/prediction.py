"""How well predictions, known before anything is generated, rank the schedules that a sweep measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.statistics import rank_correlation
from mdm_lightning.report.columns import Column, Difference, Entry, differences
from mdm_lightning.report.records import PREDICTED_GAP, PREDICTIONS, PREDICTOR, Cell

LOSS_PROFILE = "loss profile"
TABLE = "table"
SOLVED = "solved"  # how the names of predictors end that look at the share of sequences that come out right
ORDER = "order"  # the setting that names the sampler's reveal order

UNCOVERED = (
    "The loss profile assumes that positions are revealed in random order: "
    "the theorem does not cover confidence-ordered sampling, where its advice can do harm."
)
BET = (
    "A path profile walks one given path per sequence, of the true response or of the model's own output, in the "
    "sampler's order: for orders that look at the predictions a bet, good where a problem has one right answer, poor "
    "where it has many. Predicted: nats per token (likelihood), or minus the logarithm of the share that each step "
    "leaves intact, summed (solved)."
)
TABULATED = (
    "For an order that is known beforehand the table of what its steps cost is exact for likelihood: nats per token."
)


@dataclass(frozen=True)
class Prediction:
    """What a profile predicts for a column, beside its scores.

    Attributes:
        column: what was measured.
        predictor: name of the profile.
        values: predicted cost or gap of each schedule that has one, measured or not; in nats, smaller is better.
        correlation: Spearman's, of predicted and measured ranks: 1 if they agree; None if there is nothing to rank.
        chosen: the measured entry of the smallest predicted value.
        best: the entry with the best score, among those with a prediction; in a race among those that have not left.
        regret: how much better the best scores than the chosen, in the metric's units, never negative outside of races;
            None if that cannot be tested.
        sequences: behind the profile.
        passes: forward passes of single sequences that the profile took, if it is known.
        note: what the prediction is worth; empty where a theorem covers it.
    """

    column: Column
    predictor: str
    values: Mapping[str, float]
    correlation: float | None
    chosen: Entry
    best: Entry
    regret: Difference | None
    sequences: int
    passes: int | None
    note: str

    @property
    def quantity(self) -> str:
        """What is predicted."""
        return "gap" if self.predictor == LOSS_PROFILE else "cost"


def predictions(column: Column) -> list[Prediction]:
    """The predictions of a column, the one to go by first; none of a profile that speaks of fewer than two measured
    cells: there is nothing to choose from."""
    cells = [*(entry.cell for entry in column.entries), *column.unmeasured]
    names = list(dict.fromkeys(name for cell in cells for name in predicted_rows(cell)))
    # Where scores say what is solved, so do the predictions that come first.
    names.sort(key=lambda name: column.objective.sign > 0 and not name.endswith(SOLVED))
    return [found for name in names if (found := _prediction(column, name, cells)) is not None]


def predicted_rows(cell: Cell) -> dict[str, Row]:
    """What was predicted of a cell, by the name of the profile."""
    rows = [row for row in cell.rows if row.metric in PREDICTIONS and math.isfinite(row.value)]
    return {str(row.settings.get(PREDICTOR, LOSS_PROFILE)): row for row in rows}


def _prediction(column: Column, predictor: str, cells: Sequence[Cell]) -> Prediction | None:
    rows = {cell.label: row for cell in cells if (row := predicted_rows(cell).get(predictor)) is not None}
    known = [(entry, rows[entry.label].value) for entry in column.entries if entry.label in rows]
    if len(known) < 2:
        return None
    sign = column.objective.sign
    chosen, _ = min(known, key=lambda pair: pair[1])
    standing = [entry for entry, _ in known if entry in column.standing] or [entry for entry, _ in known]
    best = max(standing, key=lambda entry: sign * entry.value)
    pair = (best, chosen) if sign > 0 else (chosen, best)
    row = rows[chosen.label]
    passes = row.settings.get("passes")
    return Prediction(
        column=column,
        predictor=predictor,
        values={label: row.value for label, row in rows.items()},
        correlation=rank_correlation([value for _, value in known], [-sign * entry.value for entry, _ in known]),
        chosen=chosen,
        best=best,
        regret=differences([pair])[0],
        sequences=row.n,
        passes=None if passes is None else int(passes),
        note=_note(row),
    )


def _note(row: Row) -> str:
    if row.metric != PREDICTED_GAP:
        return TABULATED if row.settings[PREDICTOR] == TABLE else BET
    return "" if str(row.settings.get(ORDER, "")).lower() == "random" else UNCOVERED
