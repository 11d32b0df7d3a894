"""What the report says of races: rounds are one, who left is out of it, and verdicts rest on fresh instances."""

from dataclasses import replace

import numpy as np
import pytest

from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.build import build_report
from mdm_lightning.report.columns import Column, columns
from mdm_lightning.report.race import RaceRecord, joined, read_races
from mdm_lightning.report.race_tables import race_table
from mdm_lightning.report.records import Cell, Sweep
from mdm_lightning.report.verdict import verdict
from tests.report.synthetic_sweep import make_cell, write_sweep

RIVAL = (0.9, 0.3)


def rounds(schedule, level: float, *sizes: int) -> list[Cell]:
    """A schedule that was measured in rounds: its chance to solve an instance is ``level``."""
    cells, first = [], 0
    for size in sizes:
        cell = make_cell(schedule, 8, stage="race")
        hardness = np.random.default_rng(first).random(size)
        scores = (hardness < level).astype(float).tolist()
        row = Row("accuracy", float(np.mean(scores)), 0.1, size, {}, "higher", scores)
        passes = Row("forward_passes", 8.0, 0.0, size, {}, None, [8.0] * size)
        speed = Row("tokens_per_second", 100.0 + first, None, size, {})
        cells.append(replace(cell, id=f"{cell.id}-{first}", rows=[row, passes, speed], first=first))
        first += size
    return cells


CELLS = [*rounds("linear", 0.5, 50, 50), *rounds(RIVAL, 0.6, 50, 50), *rounds((0.1, 1.0), 0.1, 50)]


def record(winner: str) -> RaceRecord:
    return RaceRecord((), 8, False, 100, {"Beta(0.1, 1)": 50}, winner, 0.05)


def raced(*races: RaceRecord) -> Column:
    sweep = Sweep({}, CELLS, races)
    (column,) = columns(sweep, sweep.objectives()[0])
    return column


def test_rounds_are_joined():
    first, second = (cell.rows for cell in CELLS[:2])
    accuracy, passes = joined([first, second])
    assert accuracy.scores is not None
    assert list(accuracy.scores) == [*(first[0].scores or ()), *(second[0].scores or ())]
    assert (accuracy.value, accuracy.n) == (pytest.approx(np.mean(accuracy.scores)), 100)
    assert (passes.metric, passes.value, passes.n) == ("forward_passes", 8, 100), "what has no scores is left out"
    labels = {cell.label: cell.row("accuracy").n for cell in Sweep({}, CELLS).cells}
    assert labels == {"linear": 100, "Beta(0.9, 0.3)": 100, "Beta(0.1, 1)": 50}


def test_who_left_is_never_the_best_and_nothing_is_tested():
    """Its few instances may have been easy."""
    lucky = [*CELLS[:4], *rounds((0.1, 1.0), 1.0, 50)]
    sweep = Sweep({}, lucky, [record("Beta(0.9, 0.3)")])
    (column,) = columns(sweep, sweep.objectives()[0])
    assert column.best.label == "Beta(0.9, 0.3)"
    assert "Beta(0.1, 1)" not in column.near_best
    assert all(entry.difference is None for entry in column.entries)


def test_verdicts_of_races():
    kept = verdict(raced(record("linear")))
    assert (kept.use.label, kept.sure) == ("linear", False)
    assert "no schedule won against it" in str(kept)
    assert "Of 2 rivals 1 left the race" in str(kept)
    unconfirmed = verdict(raced(record("Beta(0.9, 0.3)")))
    assert (unconfirmed.use.label, unconfirmed.sure) == ("linear", False)
    assert "not been confirmed on fresh instances" in str(unconfirmed)
    assert "the race has not ended" in str(verdict(raced()))


def test_the_table_of_races():
    table = race_table([raced(record("Beta(0.9, 0.3)"))])
    assert table is not None
    (row,) = ([item.text for item in row] for row in table.rows)
    assert row == ["8 steps", "Beta(0.9, 0.3)", "1 after 50; 2 stayed", "250 of 300", "2,000 of 2,400", "17%"]
    assert race_table([raced()]) is None


def test_a_folder_with_a_race(tmp_path):
    """The confirmed winner's verdict is that of its fresh instances."""
    fresh = [make_cell(schedule, 8, stage="refined", n=1000) for schedule in ("linear", RIVAL)]
    folder = write_sweep(tmp_path, [*CELLS, *fresh])
    known = record("Beta(0.9, 0.3)")
    known.write(folder)
    assert read_races(folder) == [known]
    text = build_report(folder).read_text("utf-8")
    assert "Measured on fresh instances, as the only rival of linear" in text
    assert '<td class="faint">0.' in text
    assert "250 of 300" in text
    next((folder / "races").iterdir()).write_text("{}")
    with pytest.raises(Exception, match="does not describe a race"):
        read_races(folder)
