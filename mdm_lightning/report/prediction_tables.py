"""The predictions of a sweep beside what was measured, as tables."""

from collections.abc import Sequence
from dataclasses import replace

from mdm_lightning.report.columns import Column
from mdm_lightning.report.notation import decimals, interval, number, score, stage, words
from mdm_lightning.report.prediction import Prediction
from mdm_lightning.report.records import Cell, in_order
from mdm_lightning.report.tables import MISSING, Item, Table


def prediction_table(found: Sequence[Prediction]) -> Table:
    """Predicted values beside the measured scores; bold: the smallest, and scores within one error of the best. Faint:
    the prediction of what was therefore not measured.

    Args:
        found: one of each column, of the same profile.
    """
    digits = decimals([prediction.column for prediction in found])
    first = found[0]
    metric = words(first.column.objective.name)
    header = ["schedule"]
    for prediction in found:
        header += [f"{prediction.column.budget}: predicted {prediction.quantity}", metric]
    rows = []
    for cell in _schedules([prediction.column for prediction in found]):
        row = [Item(cell.label)]
        for prediction in found:
            row += _predicted(prediction, cell.label, digits)
        rows.append(row)
    cost = "" if first.passes is None else f", {first.passes:,} forward passes of single sequences"
    caption = (
        f"Predicted {first.quantity} by {first.predictor} (nats, smaller is better; measured once on {first.sequences} "
        f"validation sequences{cost}) and measured {metric}, {stage([prediction.column for prediction in found])}"
    )
    if any(prediction.column.unmeasured for prediction in found):
        caption += "; faint: not measured, because predicted to be worse than those that were"
    return Table(f"Predicted by {first.predictor}, and measured", caption, header, rows)


def agreement_table(found: Sequence[Prediction]) -> Table:
    """How well each profile ranks, and what following it costs."""
    digits = decimals([prediction.column for prediction in found])
    exact = all(prediction.column.exact for prediction in found)
    rows = []
    for prediction in found:
        correlation, regret = prediction.correlation, prediction.regret
        cells = [
            prediction.column.budget,
            prediction.predictor,
            MISSING if correlation is None else number(correlation, 2),
            prediction.chosen.label,
            prediction.best.label,
            MISSING if regret is None else interval(regret, digits),
        ]
        rows.append([*map(Item, cells)])
    header = [
        "budget",
        "profile",
        "Spearman's rank correlation",
        "smallest predicted",
        "best measured",
        "regret" if exact else "regret (95 % interval)",
    ]
    metric = words(found[0].column.objective.name)
    caption = f"Regret: {metric} lost by taking the schedule with the smallest predicted gap or cost"
    if not exact:
        caption += "; the measured best is chosen on the same instances, which exaggerates it"
    if any(prediction.column.unmeasured for prediction in found):
        caption += "; correlation and regret are of what was measured"
    return Table("Prediction against measurement", caption, header, rows)


def _schedules(columns: Sequence[Column]) -> list[Cell]:
    """One cell of each schedule, measured or not, hand-made ones first."""
    measured = [entry.cell for column in columns for entry in column.entries]
    cells = [*measured, *(cell for column in columns for cell in column.unmeasured)]
    by_label = {cell.label: replace(cell, stage="grid") for cell in cells}  # whose stage is not that of its neighbours
    return sorted(by_label.values(), key=in_order)


def _predicted(prediction: Prediction, label: str, digits: int) -> list[Item]:
    entry, value = prediction.column.entry(label), prediction.values.get(label)
    text = MISSING if value is None else f"{value:#.4g}"
    if entry is None:
        return [Item(text, faint=True), Item(MISSING if value is None else "not measured", faint=True)]
    measured = Item(score(entry, digits), label in prediction.column.near_best)
    return [Item(text, label == prediction.chosen.label), measured]
