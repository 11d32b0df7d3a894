"""The tables of a sweep, in the paper's layout: rows are schedules, hand-made ones first; columns are step budgets."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.columns import ROUNDING, Column, Entry, preferred
from mdm_lightning.report.notation import (
    conditions,
    decimals,
    errors_in_words,
    interval,
    p_value,
    score,
    stage,
    words,
)
from mdm_lightning.report.records import NFE, PREDICTOR, Cell, Sweep, in_order

MISSING = "—"


@dataclass(frozen=True)
class Item:
    """A cell of a table."""

    text: str
    bold: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the first item of a row names the row.

    Attributes:
        title: what it shows, in a few words.
        caption: how to read it.
        header: names of the columns.
        rows: the items.
    """

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Item]]


def score_table(columns: Sequence[Column]) -> Table:
    """Scores with standard errors; bold within one standard error of the column's best."""
    digits = decimals(columns)
    errors, bold = errors_in_words(columns)
    title = f"Scores, {stage(columns)}"
    caption = (
        f"{words(columns[0].objective.name)} ({columns[0].objective.better} is better){errors}, {stage(columns)}; "
        f"bold: {bold}"
    )

    if columns[0].stage == "race":
        caption += (
            "; in parentheses the number of instances: scores on different ones cannot be compared; faint: left the "
            "race, significantly behind its leader"
        )

    def item(column: Column, entry: Entry) -> Item:
        text = score(entry, digits) + (f" ({entry.row.n})" if column.stage == "race" else "")
        return Item(text, entry.label in column.near_best, entry not in column.standing)

    return _by_schedule(title, caption, columns, item)


def overview_table(parts: Sequence[Sequence[Column]]) -> Table | None:
    """The best score of every section that is judged by the same, one row each; None if there is but one section."""
    if len(parts) < 2:
        return None
    every = [column for part in parts for column in preferred(part)]
    digits = decimals(every)
    errors, bold = errors_in_words(every)
    budgets = list(dict.fromkeys(c.budget for c in sorted(every, key=lambda c: (c.steps is None, c.steps or 0))))
    alone = all(len(column.entries) == 1 for column in every)
    sign = every[0].objective.sign
    bars = {
        budget: max((c.best for c in every if c.budget == budget), key=lambda entry: sign * entry.value)
        for budget in budgets
    }
    rows = []
    for part in parts:
        found = {column.budget: column.best for column in preferred(part)}
        row = [Item(conditions(part[0].others))]
        for budget in budgets:
            entry, bar = found.get(budget), bars[budget]
            text = MISSING if entry is None else score(entry, digits) + ("" if alone else f" {entry.label}")
            margin = ROUNDING * abs(bar.value) if bar.exact else bar.stderr or 0
            near = entry is not None and sign * entry.value >= sign * bar.value - margin
            row.append(Item(text, near))
        rows.append(row)
    metric = every[0].objective
    which = "" if alone else " of each row's best schedule"
    caption = (
        f"{words(metric.name)} ({metric.better} is better){errors}{which}, {stage(every)}; bold: {bold}. Equal step "
        "budgets of different samplers need not cost the same number of forward passes"
    )
    return Table("Overview", caption, ["", *budgets], rows)


def cost_table(columns: Sequence[Column]) -> Table | None:
    """Forward passes per sequence; None if they are unknown, or exactly what the step budgets say."""
    costs = [(column, passes) for column in columns for entry in column.entries if (passes := column.passes(entry))]
    if not any(column.steps is None or abs(passes - column.steps) > 0.005 * column.steps for column, passes in costs):
        return None

    def item(column: Column, entry: Entry) -> Item:
        passes = column.passes(entry)
        return Item(MISSING if passes is None else f"{passes:.4g}")

    title = f"Forward passes per sequence, {stage(columns)}"
    caption = f"{title}: what the steps cost; a step that reveals nothing costs none"
    return _by_schedule(title, caption, columns, item)


def difference_table(columns: Sequence[Column]) -> Table | None:
    """Differences from the reference with 95 % intervals; bold if significant. None if nothing was compared."""
    compared = [column for column in columns if any(entry.difference for entry in column.entries)]
    if not compared:
        return None
    digits = decimals(columns)
    references = dict.fromkeys(column.reference.label for column in compared if column.reference is not None)
    title = f"Differences from {' or '.join(references)}, {stage(columns)}"
    exact = all(column.exact for column in columns)
    caption = (
        f"{words(columns[0].objective.name)} minus that of {' or '.join(references)}"
        f"{'' if exact else ' (95 % interval)'}, {stage(columns)}; bold: "
        + ("not equal" if exact else "p < 0.05 after Holm's correction within the column")
    )

    def item(column: Column, entry: Entry) -> Item:
        difference = entry.difference
        if difference is None:
            return Item("reference" if entry is column.reference else MISSING)
        return Item(interval(difference, digits), difference.significant)

    return _by_schedule(title, caption, compared, item)


def comparison_table(column: Column) -> Table:
    """A column in full, best first: score, difference, p-values."""
    digits, sign = decimals([column]), column.objective.sign
    rows = []
    for entry in sorted(column.entries, key=lambda entry: -sign * entry.value):
        difference = entry.difference
        tests = ["", "", ""]
        if difference is not None:
            tests = [interval(difference, digits), p_value(difference.p), p_value(difference.corrected)]
        rows.append([Item(entry.label), Item(score(entry, digits)), *map(Item, tests)])
    against = f" against {column.reference.label}" if column.reference is not None else ""
    title = f"All comparisons at {column.budget}, {stage([column])}"
    caption = "best first; difference with 95 % interval, p-value, and p-value after Holm's correction"
    header = ["schedule", words(column.objective.name), f"difference{against}", "p", "corrected"]
    if column.exact:
        caption, header, rows = "best first; exact differences", header[:3], [row[:3] for row in rows]
    elif column.stage == "race":
        caption, header = "best first", ["schedule", header[1], "instances", "left the race"]
        rows = [
            [Item(e.label), Item(score(e, digits)), Item(str(e.row.n)), Item("" if e in column.standing else "yes")]
            for e in sorted(column.entries, key=lambda entry: (-entry.row.n, -sign * entry.value))
        ]
    elif not any(entry.difference for entry in column.entries):
        caption, header, rows = "best first", header[:2], [row[:2] for row in rows]
    return Table(title, caption, header, rows)


def results_csv(sweep: Sweep) -> str:
    """One line per cell and metric; a failed cell has one line, with its error."""
    first = ["stage", "alpha", "beta", "schedule", "sampler", "steps", "nfe", "task", "metric", "value", "stderr", "n"]
    first += ["exact", "predictor"]
    last = ["seconds", "status", "error"]
    axes = sorted({axis for cell in sweep.cells for axis, _ in cell.others} - {*first, *last})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *last, *axes], lineterminator="\n", restval="")
    writer.writeheader()
    for cell in sweep.cells:
        known = {
            **{name: getattr(cell, name) for name in ("stage", "alpha", "beta", "schedule", "sampler", "steps")},
            **{name: getattr(cell, name) for name in last},
            **{axis: value for axis, value in cell.others if axis in axes},
        }
        rows: Sequence[Row | None] = [*cell.rows] or [None]
        for row in rows:
            names = ("task", "metric", "value", "stderr", "n", "exact")
            measured = {} if row is None else {name: getattr(row, name) for name in names}
            measured |= {} if row is None else {"predictor": row.settings.get(PREDICTOR, "")}
            passes = cell.row(NFE, None if row is None else row.task)
            writer.writerow({**known, "nfe": None if passes is None else passes.value, **measured})
    return text.getvalue()


def _by_schedule(title: str, caption: str, columns: Sequence[Column], item: Callable[[Column, Entry], Item]) -> Table:
    rows = []
    for cell in _schedules(columns):
        entries = [(column, column.entry(cell.label)) for column in columns]
        items = [Item(MISSING) if entry is None else item(column, entry) for column, entry in entries]
        rows.append([Item(cell.label), *items])
    return Table(title, caption, ["schedule", *(column.budget for column in columns)], rows)


def _schedules(columns: Sequence[Column]) -> list[Cell]:
    """One cell of each schedule, hand-made schedules first."""
    cells = sorted((entry.cell for column in columns for entry in column.entries), key=in_order)
    return list({cell.label: cell for cell in cells}.values())
