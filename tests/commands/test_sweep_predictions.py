"""`python sweep.py`: what profiles predict of cells, and `sweep.prune=predicted`, which does not measure all."""

import math
import shutil
from pathlib import Path

import pytest

from mdm_lightning.commands.sweep.candidates import Candidate, rule_out
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.report.prediction import predicted_rows
from mdm_lightning.report.records import Cell, Sweep
from tests.commands.conftest import Measuring
from tests.commands.test_evaluate import rows_of
from tests.commands.test_sweep import TWO, numbers, written
from tests.report.synthetic_sweep import make_cell

PRUNED = (
    "schedule.alpha=0.2,0.5,0.9",
    "schedule.beta=0.2,0.9",
    "sampler.steps=2,4",
    "sweep.baselines=[linear]",
    "sweep.limit=10",
    "sweep.profile.sequences=8",
    "sweep.paths.sequences=8",
    "sweep.paths.knots=5",
    "evaluation.batch_size=4",
    "evaluation=task",
    "sampler=expected_confidence",
    "sweep.prune=predicted",
    "sweep.keep=1",
)


def by_budget(folder: Path) -> dict[int | None, list[Cell]]:
    found: dict[int | None, list[Cell]] = {}
    for cell in Sweep.load(folder).cells:
        found.setdefault(cell.steps, []).append(cell)
    return found


@pytest.fixture(scope="session")
def pruned(tmp_path_factory, cache, task_model) -> Path:
    """The folder of a finished sweep; not to be changed."""
    folder = tmp_path_factory.mktemp("pruned")
    outcome = Measuring("sweep.py", folder, cache)(f"ckpt={task_model}", "sweep.dir=sweep", *PRUNED)
    assert outcome.status == 0, outcome.stderr
    assert "not measured" in outcome.stdout
    return folder / "sweep"


def test_what_no_profile_thinks_best_is_not_measured(pruned):
    for cells in by_budget(pruned).values():
        assert len(cells) == 7
        measured = [cell for cell in cells if cell.finished and cell.schedule != "linear"]
        left_out = [cell for cell in cells if cell.status == "not measured"]
        assert len(measured) + len(left_out) == 6
        assert any(cell.schedule == "linear" and cell.finished for cell in cells), "baselines are always measured"
        values = {cell.label: {name: row.value for name, row in predicted_rows(cell).items()} for cell in cells}
        names = {"path of responses, likelihood", "path of own output, likelihood"}
        names |= {"path of responses, solved", "path of own output, solved"}
        assert all(set(known) == names for known in values.values())
        best = {name: min(values[cell.label][name] for cell in measured + left_out) for name in names}
        assert {name: min(values[cell.label][name] for cell in measured) for name in names} == best
        assert len(measured) <= len(names)
        assert all(any(values[cell.label][name] == best[name] for name in names) for cell in measured)
    assert any(cell.status == "not measured" for cells in by_budget(pruned).values() for cell in cells)


def test_the_report_says_what_was_not_measured(pruned):
    count = sum(cell.status == "not measured" for cells in by_budget(pruned).values() for cell in cells)
    text = (pruned / "report.html").read_text()
    assert f"{count} not measured because of their predictions" in text
    assert text.count('<td class="faint">not measured</td>') == count
    assert "not measured, being predicted to be worse" in (pruned / "table.md").read_text()
    assert "path of responses, solved" in text
    assert "path of own output, solved" in (pruned / "results.csv").read_text()
    assert "A path profile walks one given path" in text


def test_the_rest_is_measured_when_it_is_asked_for(sweep, task_model, pruned, tmp_path):
    """The profile is not measured again unless its file is damaged."""
    shutil.copytree(pruned, tmp_path / "sweep")
    (profile,) = (tmp_path / "sweep/profiles").iterdir()
    kept, before = profile.stat().st_mtime_ns, written(tmp_path / "sweep")
    options = (f"ckpt={task_model}", f"sweep.dir={tmp_path}/sweep", *PRUNED)
    assert sweep(*options, "sweep.prune=null").status == 0
    assert profile.stat().st_mtime_ns == kept
    left_out = {cell.id for cells in by_budget(pruned).values() for cell in cells if cell.status == "not measured"}
    after = written(tmp_path / "sweep")
    assert {name for name in before if before[name] != after[name]} == {f"{identity}.json" for identity in left_out}
    assert all(cell.finished for cells in by_budget(tmp_path / "sweep").values() for cell in cells)
    profile.write_bytes(b"damaged")
    for path in (tmp_path / "sweep/cells").iterdir():
        path.unlink()
    assert sweep(*options).status == 0
    assert profile.stat().st_size > 100
    assert by_budget(tmp_path / "sweep").keys() == by_budget(pruned).keys()
    assert {c.id: c.rows for cells in by_budget(pruned).values() for c in cells if not c.finished} == {
        c.id: c.rows for cells in by_budget(tmp_path / "sweep").values() for c in cells if not c.finished
    }


def test_the_table_of_a_static_order_is_the_samplers_own_likelihood(sweep, evaluate, task_model, tmp_path):
    """On the sequences that were profiled, which are the last ones."""
    static = ("order=spaced", "count=expected", "schedule=linear", "sampler.steps=3", "evaluation.batch_size=4")
    outcome = sweep(
        f"ckpt={task_model}", "sweep.dir=sweep", *static, "sweep.baselines=[]", "sweep.limit=4", "evaluation=task",
        "sweep.profile.sequences=8",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    (cell,) = Sweep.load(tmp_path / "sweep").cells
    (row,) = predicted_rows(cell).values()
    assert row.settings["predictor"] == "table"
    likelihood = ("evaluation=likelihood", "estimator=policy", "evaluation.first=32", "evaluation.sequences=8")
    assert evaluate(f"ckpt={task_model}", *static, *likelihood, "run_dir=policy").status == 0
    (whole,) = (row for row in rows_of(tmp_path / "policy") if row["metric"] == "policy_nats_per_token")
    assert row.value == pytest.approx(whole["value"], rel=1e-5)


def test_nothing_predicts_adaptive_counts(sweep, task_model):
    outcome = sweep(f"ckpt={task_model}", *PRUNED, "count=entropy_bounded", "sweep.limit=33", "sweep.dir=sweep")
    assert outcome.status == 1
    assert "too few validation sequences" in outcome.stdout  # of 40, of which 8 are for profiles
    assert "no profile predicts what is swept here" in outcome.error


@pytest.mark.ddp
def test_two_ranks_leave_out_the_same(sweep, task_model, pruned, tmp_path):
    first, second = sweep.on_two_ranks(f"ckpt={task_model}", *PRUNED, *TWO, f"sweep.dir={tmp_path}/two")
    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    one, two = by_budget(pruned), by_budget(tmp_path / "two")
    assert {steps: list(map(numbers, cells)) for steps, cells in one.items()} == {
        steps: list(map(numbers, cells)) for steps, cells in two.items()
    }


def candidate(schedule, **costs: float) -> Candidate:
    rows = [Row("predicted_cost", cost, None, 8, {"predictor": name}, "lower") for name, cost in costs.items()]
    cell = make_cell(schedule, 8)
    return Candidate([], Cell(**{**cell.__dict__, "rows": rows, "status": "not measured"}))


def test_the_best_of_every_profile_stay():
    column = [
        candidate("linear", first=9.0, second=9.0),
        candidate((0.5, 0.5), first=9.0, second=9.0),
        candidate((0.1, 0.1), first=1.0, second=3.0),
        candidate((0.1, 0.2), first=2.0, second=1.0),
        candidate((0.1, 0.3), first=3.0, second=math.inf),
        candidate((0.1, 0.4), first=2.5, second=2.5),
        candidate((0.1, 0.5)),
    ]
    labels = {keep: {one.cell.label for one in rule_out([column], keep)} for keep in (1, 2, 9)}
    assert labels == {1: {"Beta(0.1, 0.3)", "Beta(0.1, 0.4)"}, 2: {"Beta(0.1, 0.3)"}, 9: set()}
    with pytest.raises(UserError, match="no profile predicts"):
        rule_out([[candidate("linear"), candidate((0.1, 0.1))]], 1)
