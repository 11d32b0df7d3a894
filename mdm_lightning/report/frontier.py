"""Generative frontiers in the report of a sweep: the curves of a step budget's schedules in one figure."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.figures import frontier_figure
from mdm_lightning.evaluation.generation.frontier import MATCHED
from mdm_lightning.evaluation.generation.matched_entropy import ENTROPY, NATS, Curve
from mdm_lightning.report.columns import Column

CURVES = 6  # besides that of the reference


def frontier_figures(section: Sequence[Column]) -> dict[str, Figure]:
    """For every column that was measured by ``evaluation=frontier``: the reference's curve, and those of the best."""
    drawn = {}
    for column in section:
        sign, reference = column.objective.sign, column.reference
        ranked = sorted(column.entries, key=lambda entry: (entry is not reference, -sign * entry.value))
        curves = {entry.label: curve for entry in ranked if (curve := Curve.of_rows(entry.cell.rows)) is not None}
        if not curves:
            continue
        shown = dict(list(curves.items())[: CURVES + 1])
        rows = ranked[0].cell.rows
        matched = next((float(row.settings["entropy"]) for row in rows if row.metric == MATCHED), None)
        name = f"frontier, {column.budget}" + (", refined" if column.stage == "refined" else "")
        drawn[name] = frontier_figure(shown, _held_out(rows), matched)
    return drawn


def _held_out(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Entropy and nats per token of held-out text."""
    held_out = {row.metric: row.value for row in rows if row.settings.get("text") == "validation"}
    return (held_out[ENTROPY], held_out[NATS]) if {ENTROPY, NATS} <= set(held_out) else None
