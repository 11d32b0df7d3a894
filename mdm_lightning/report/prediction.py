"""How well the predicted gap, known before anything is generated, ranks the schedules that a sweep measured."""

import math
from dataclasses import dataclass

from mdm_lightning.evaluation.statistics import rank_correlation
from mdm_lightning.report.columns import Column, Difference, Entry, differences
from mdm_lightning.report.records import PREDICTED

ORDER = "order"  # the setting of the predicted_gap row that names the sampler's reveal order
UNCOVERED = (
    "The prediction assumes that positions are revealed in random order: "
    "the theorem does not cover confidence-ordered sampling."
)


@dataclass(frozen=True)
class Prediction:
    """A column's predicted gaps beside its scores.

    Attributes:
        column: what was measured.
        gaps: predicted gap of each schedule that has one, nats per token.
        correlation: Spearman's, of predicted and measured ranks: 1 if they agree; None if there is nothing to rank.
        chosen: the entry with the smallest predicted gap.
        best: the entry with the best score, among those with a prediction.
        regret: how much better the best scores than the chosen, in the metric's units, never negative; None if that
            cannot be tested.
        covered: the sampler reveals in random order, as the theorem demands.
    """

    column: Column
    gaps: dict[str, float]
    correlation: float | None
    chosen: Entry
    best: Entry
    regret: Difference | None
    covered: bool


def prediction(column: Column) -> Prediction | None:
    """The prediction of a column; None if fewer than two of its cells have a predicted gap: nothing to choose from."""
    known = [(entry, gap) for entry in column.entries if math.isfinite(gap := predicted_gap(entry))]
    if len(known) < 2:
        return None
    sign = column.objective.sign
    chosen, _ = min(known, key=lambda pair: pair[1])
    best = max((entry for entry, _ in known), key=lambda entry: sign * entry.value)
    pair = (best, chosen) if sign > 0 else (chosen, best)
    return Prediction(
        column=column,
        gaps={entry.label: gap for entry, gap in known},
        correlation=rank_correlation([gap for _, gap in known], [-sign * entry.value for entry, _ in known]),
        chosen=chosen,
        best=best,
        regret=differences([pair])[0],
        covered=all(_in_random_order(entry) for entry, _ in known),
    )


def predicted_gap(entry: Entry) -> float:
    """Nats per token; NaN if it was not predicted."""
    row = entry.cell.row(PREDICTED)
    return math.nan if row is None else row.value


def _in_random_order(entry: Entry) -> bool:
    row = entry.cell.row(PREDICTED)
    return row is not None and str(row.settings.get(ORDER, "")).lower() == "random"
