"""Cells survive their files exactly, and what is not a cell is refused in one line."""

import json
import math

import numpy as np
import pytest

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.records import Cell, Objective, Sweep, cell_path
from tests.report.synthetic_sweep import failed_cell, make_cell, write_sweep

ODD_FLOATS = (0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan)


def cell_of(*rows: Row, **changes) -> Cell:
    fields = {"alpha": 0.9, "beta": 0.3, "schedule": "beta", "axes": {"schedule.alpha": "0.9", "order": "random"}}
    fields = {**fields, **changes}
    return Cell("3f2a", "grid", **fields, sampler="llada", steps=16, schedule_config={}, status="finished", rows=rows)


def test_round_trip_is_exact(tmp_path):
    row = Row("odd", math.nan, math.inf, len(ODD_FLOATS), {"a": 1, "b": "x|y", "c": math.inf}, "lower", ODD_FLOATS)
    for cell in (cell_of(row), make_cell("linear", 16), make_cell((0.1, 0.7), 64, order="entropy"), failed_cell()):
        path = cell.write(tmp_path)
        assert path == cell_path(tmp_path, cell.id)
        assert repr(Cell.read(path)) == repr(cell)  # equality of representations, since NaN equals nothing


def test_files_are_strict_json(tmp_path):
    path = cell_of(Row("odd", math.nan, None, 2, {}, None, [math.inf, 1.0])).write(tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["rows"][0]["value"] == {"float": "nan"}


def test_numpys_numbers_become_pythons(tmp_path):
    row = Row("accuracy", np.float64(0.5), np.float32(0.25), np.int64(2), {}, "higher", np.array([0.0, 1.0]))
    assert Cell.read(cell_of(row).write(tmp_path)).rows == (Row("accuracy", 0.5, 0.25, 2, {}, "higher", (0.0, 1.0)),)


def test_nothing_is_left_beside_the_cells(tmp_path):
    for _ in range(2):
        make_cell("linear", 16).write(tmp_path)
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["grid-linear-16.json"]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "Beta(0.9, 0.3)"),
        ({"alpha": 1.0, "beta": 0.25}, "Beta(1, 0.25)"),
        ({"schedule": "squared_sine", "alpha": None, "beta": None, "axes": {"order": "random"}}, "squared sine"),
        (
            {"schedule": "polynomial", "alpha": None, "beta": None, "axes": {"schedule.exponent": "3", "order": "x"}},
            "polynomial (exponent=3)",
        ),
    ],
)
def test_labels(changes, label):
    assert cell_of(**changes).label == label


def test_other_axes_are_neither_schedule_nor_steps():
    axes = {"schedule": "beta", "schedule.alpha": "1", "sampler.steps": "8", "steps": "8", "sampler": "b", "order": "a"}
    assert cell_of(axes=axes).others == (("order", "a"), ("sampler", "b"))


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ([Row("accuracy", 0.5, None, 3, {}, "higher", [0.0, 1.0])], {}),
        ([], {"alpha": None}),
    ],
)
def test_inconsistent_cells_are_refused(rows, changes):
    with pytest.raises(ValueError, match="cell 3f2a"):
        cell_of(*rows, **changes)


def test_a_failed_cell_needs_a_reason():
    with pytest.raises(ValueError, match="failed cell has an error"):
        Cell("x", "grid", "linear", None, None, "llada", 8, {}, {}, "failed")


def test_the_sweep_of_a_folder(tmp_path):
    cells = [make_cell((0.9, 0.3), 16), failed_cell(), make_cell("sine", 16), make_cell("linear", 16)]
    sweep = Sweep.load(write_sweep(tmp_path, cells, seed=7))
    assert sweep.settings["seed"] == 7
    assert [cell.label for cell in sweep.cells] == ["linear", "sine", "Beta(-1, 0.3)", "Beta(0.9, 0.3)"]
    assert [cell.id for cell in sweep.failed] == ["failed-16"]
    assert sweep.objectives() == [Objective("accuracy", "higher")]


def test_bad_folders_are_refused_in_one_line(tmp_path):
    def message(folder) -> str:
        with pytest.raises(UserError) as caught:
            Sweep.load(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "nowhere")
    assert "not a sweep folder" in message(tmp_path)
    folder = write_sweep(tmp_path / "empty", [])
    assert "no cells" in message(folder)
    path = make_cell("linear", 16).write(folder)
    whole = path.read_text()
    for broken in (whole[: len(whole) // 2], "[]", "{}", whole.replace('"grid"', '"later"')):
        path.write_text(broken)
        assert str(path) in message(folder)


def test_objectives():
    passes = Row("forward_passes", 8.0, None, 2, {})
    gap = Row("predicted_gap", 0.1, None, 1, {}, "lower")
    loss = Row("nelbo", 1.0, 0.1, 2, {}, "lower")
    accuracy = Row("accuracy", 0.5, 0.1, 2, {}, "higher", [0.0, 1.0])
    assert Sweep({}, [cell_of(passes, gap, loss, accuracy)]).objectives() == [Objective("accuracy", "higher")]
    assert Sweep({}, [cell_of(passes, gap, loss)]).objectives() == [Objective("nelbo", "lower")]
    assert Sweep({"metric": "nelbo"}, [cell_of(loss, accuracy)]).objectives() == [Objective("nelbo", "lower")]
    assert Sweep({}, [failed_cell()]).objectives() == []
    for metric in ("perplexity", "forward_passes"):
        with pytest.raises(UserError, match=f"metric={metric} does not judge.*accuracy"):
            Sweep({"metric": metric}, [cell_of(passes, accuracy)]).objectives()
    with pytest.raises(UserError, match="no metric judges"):
        Sweep({}, [cell_of(passes, gap)]).objectives()


def test_cells_without_a_result_are_named_with_the_reason():
    cells = [
        failed_cell(),
        cell_of(Row("accuracy", 0.5, 0.1, 2, {}, "higher")),
        cell_of(Row("accuracy", math.nan, 0.1, 2, {}, "higher"), alpha=0.5),
        cell_of(Row("forward_passes", 8.0, None, 2, {}), alpha=0.7),
    ]
    reasons = {cell.label: reason for cell, reason in Sweep({}, cells).unusable()}
    assert reasons == {
        "Beta(-1, 0.3)": "ValueError: alpha must be positive",
        "Beta(0.5, 0.3)": "accuracy is nan",
        "Beta(0.7, 0.3)": "accuracy was not measured",
    }
