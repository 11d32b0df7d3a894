"""Samplers beside each other: the reference schedules of a sweep's sections, paired, and corrected within a budget."""

import numpy as np
import pytest

from mdm_lightning.evaluation.statistics import holm, sign_flip_test
from mdm_lightning.report.across import across_table
from mdm_lightning.report.build import build_report
from mdm_lightning.report.columns import columns, sections
from mdm_lightning.report.records import Sweep
from tests.report.synthetic_sweep import make_cell, write_sweep

LIFTS = {"llada": 0.6, "maskgit": 0.0, "remdm": 0.02}


def cells(*samplers: str, **options):
    return [
        make_cell(schedule, steps, sampler=sampler, lift=LIFTS[sampler], **options)
        for sampler in samplers
        for schedule in ("linear", "cosine")
        for steps in (8, 16)
    ]


def table_of(made):
    sweep = Sweep(cells=made)
    (objective,) = sweep.objectives()
    return across_table(list(sections(columns(sweep, objective)).values()))


def scores(made, sampler: str, steps: int) -> np.ndarray:
    cell = next(c for c in made if c.sampler == sampler and c.steps == steps and c.schedule == "linear")
    return np.array(cell.rows[0].scores)


def test_differences_are_paired_and_of_the_reference_schedules():
    made = cells("llada", "maskgit", "remdm")
    table = table_of(made)
    assert table is not None
    assert [row[0].text for row in table.rows] == [f"sampler = {name}" for name in LIFTS]
    for place, steps in enumerate((8, 16), 1):
        paired = np.stack([scores(made, other, steps) - scores(made, "llada", steps) for other in ("maskgit", "remdm")])
        p = holm(sign_flip_test(paired))
        for row, mean, of_row in zip(table.rows[1:], paired.mean(1), p, strict=True):
            assert float(row[place].text.split(" ")[0].replace("−", "-")) == pytest.approx(mean, abs=0.006)
            assert row[place].bold == (of_row < 0.05)
    assert table.rows[1][1].bold


def test_what_does_not_differ_is_not_bold():
    """The same scores under another name."""
    made = [make_cell("linear", 8, sampler=name, lift=0.1) for name in ("llada", "maskgit")]
    table = table_of(made)
    assert table is not None
    assert not table.rows[1][1].bold
    assert table.rows[1][1].text.startswith("0.")


def test_sections_without_a_common_budget_are_not_compared():
    assert table_of(cells("llada")) is None
    apart = [make_cell("linear", 8, sampler="llada"), make_cell("linear", 16, sampler="maskgit")]
    assert table_of(apart) is None
    only_pairs = [make_cell((0.9, 0.3), 8, sampler=name) for name in ("llada", "maskgit")]
    assert table_of(only_pairs) is None


def test_a_missing_budget_leaves_a_gap():
    made = [c for c in cells("llada", "maskgit") if not (c.sampler == "maskgit" and c.steps == 16)]
    table = table_of(made)
    assert table is not None
    assert [len(row) for row in table.rows] == [len(table.header)] * 2


def test_it_is_in_the_report(tmp_path):
    write_sweep(tmp_path, cells("llada", "maskgit"))
    page = build_report(tmp_path).read_text()
    assert "minus that of sampler = llada" in page
    assert "minus that of sampler = llada" in (tmp_path / "table.md").read_text()
