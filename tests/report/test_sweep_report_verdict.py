"""Who is compared with whom, and what the verdicts say about sweeps whose truth is known."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.statistics import bootstrap_interval, holm, sign_flip_test
from mdm_lightning.report.columns import Column, columns, preferred
from mdm_lightning.report.prediction import predictions
from mdm_lightning.report.records import ANY, Cell, Objective, Sweep
from mdm_lightning.report.verdict import Verdict, verdict
from tests.report.synthetic_sweep import failed_cell, make_cell, make_sweep


def table(cells: Sequence[Cell]) -> list[Column]:
    sweep = Sweep({}, cells)
    (objective,) = sweep.objectives()
    return columns(sweep, objective)


def judge(cells: Sequence[Cell]) -> Verdict:
    (column,) = preferred(table(cells))
    return verdict(column)


def scored(cell: Cell, scores: Sequence[float] | np.ndarray, better: str = "higher", *, keep: bool = True) -> Cell:
    """The cell with other scores (not kept: with their mean and standard error only)."""
    scores = np.asarray(scores, dtype=float)
    stderr = float(scores.std(ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else None
    kept = scores.tolist() if keep else None
    return replace(cell, rows=[Row("score", float(scores.mean()), stderr, len(scores), {}, better, kept)])


@pytest.fixture(scope="module")
def grid() -> list[Cell]:
    return make_sweep(grid=(0.3, 0.5, 0.9), budgets=(16, 64), refine=2)


def test_columns_hold_cells_that_differ_in_the_schedule_only(grid):
    cells = [*grid, *make_sweep(grid=(0.3,), budgets=(16,), order="margin"), failed_cell()]
    found = {(column.others, column.stage, column.steps): len(column.entries) for column in table(cells)}
    assert found == {
        ((), "grid", 16): 13,
        ((), "grid", 64): 13,
        ((), "refined", 16): 6,
        ((), "refined", 64): 6,
        ((("order", "margin"),), "grid", 16): 5,
    }


def test_differences_are_paired_tested_and_corrected_within_the_column(grid):
    for column in table(grid):
        assert column.reference is not None
        assert column.reference.label == "linear"
        rivals = [entry for entry in column.entries if entry is not column.reference]
        scores = np.array([entry.row.scores for entry in rivals]) - np.array(column.reference.row.scores)
        p = sign_flip_test(scores)
        low, high = bootstrap_interval(scores)
        expected = zip(scores.mean(1), low, high, p, holm(p), strict=True)
        for entry, numbers in zip(rivals, expected, strict=True):
            found = entry.difference
            assert found is not None
            assert found.paired
            assert [found.value, found.low, found.high, found.p, found.corrected] == pytest.approx(numbers, abs=1e-6)


def test_bold_is_within_the_bests_standard_error():
    values = {"a": (0.70, 0.05), "b": (0.66, 0.001), "c": (0.649, 0.3), "d": (0.65, 0.01)}
    for better, sign in (("higher", 1), ("lower", -1)):
        cells = [
            replace(
                make_cell("linear", 16), schedule=name, id=name, rows=[Row("m", sign * value, error, 9, {}, better)]
            )
            for name, (value, error) in values.items()
        ]
        (column,) = table(cells)
        assert column.best.label == "a"
        assert column.near_best == {"a", "b", "d"}


def test_a_clear_winner_is_named_with_its_lead_and_the_caveat():
    cells = [make_cell("linear", 16, lift=0.0), make_cell("sine", 16, lift=0.1), make_cell((0.9, 0.3), 16, lift=1.5)]
    found = judge(cells)
    assert found.sure
    assert found.advice == "use Beta(0.9, 0.3)"
    lead = found.use.value - cells[0].rows[0].value
    assert f"+{lead:.3f} (95 % interval" in found.evidence
    assert "after Holm's correction for 2 comparisons" in found.evidence
    assert "optimistic" in found.evidence


def test_fresh_instances_decide(grid):
    found = [verdict(column) for column in preferred(table(grid))]
    assert [item.column.stage for item in found] == ["refined", "refined"]
    assert [item.column.n for item in found] == [1000, 1000]
    for item in found:
        assert "optimistic" not in item.evidence


def test_nothing_to_find_is_said():
    """All schedules are equally good; the seeds are those of the toy, and a false discovery has probability 5 %."""
    cells = [make_cell("linear", 16, lift=0.0), *(make_cell((a, 0.3), 16, lift=0.0) for a in (0.1, 0.5, 0.7, 0.9))]
    found = judge(cells)
    assert not found.sure
    assert found.use.label == "linear"
    assert found.advice == "no schedule is distinguishable from linear with n = 200"


def test_false_discoveries_are_rare():
    """The verdict of 150 sweeps with nothing to find names a better schedule in at most 5 % of them; more than 17 would
    have probability below 1e-3."""
    generator = np.random.default_rng(11)
    schedules = [make_cell("linear", 16, n=2), *(make_cell((a, 0.3), 16, n=2) for a in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0))]
    false = 0
    for _ in range(150):
        hardness = generator.normal(size=40)
        false += judge([scored(cell, hardness + generator.normal(size=40)) for cell in schedules]).sure
    assert false <= 17


def test_worse_schedules_do_not_make_a_better_one():
    cells = [make_cell("linear", 16, lift=0.0), make_cell("sine", 16, lift=-2.0), make_cell((0.9, 0.3), 16, lift=0.0)]
    found = judge(cells)
    assert found.use.label == "linear"
    assert found.advice.startswith("keep linear: no schedule is distinguishably better than linear")
    assert "1 of 2 is distinguishably worse" in found.evidence


def test_lower_can_be_better():
    generator = np.random.default_rng(12)
    nats = generator.gamma(2, size=100)
    cells = [scored(make_cell("linear", 8), nats, "lower"), scored(make_cell((0.9, 0.3), 8), nats - 0.2, "lower")]
    found = judge(cells)
    assert found.advice == "use Beta(0.9, 0.3)"
    assert "−0.20 (95 % interval −0.20 to −0.20" in found.evidence
    assert judge([scored(cell, np.array(cell.rows[0].scores), "higher") for cell in cells]).use.label == "linear"


def test_without_scores_the_comparison_is_unpaired_and_says_so():
    hardness = np.random.default_rng(13).normal(size=100)
    linear, pair = make_cell("linear", 8), make_cell((0.9, 0.3), 8)
    found = judge([scored(linear, hardness, keep=False), scored(pair, hardness + 0.1, keep=False)])
    assert not found.sure
    assert "unpaired, from the standard errors" in found.evidence
    assert judge([scored(linear, hardness), scored(pair, hardness + 0.1)]).sure


def test_without_errors_nothing_is_claimed():
    cells = [make_cell("linear", 8), make_cell((0.9, 0.3), 8)]
    bare = [
        replace(cell, rows=[Row("m", value, None, 9, {}, "higher")]) for cell, value in zip(cells, (1, 2), strict=True)
    ]
    found = judge(bare)
    assert not found.sure
    assert found.advice == "Beta(0.9, 0.3) has the best score"
    assert "nothing can be said" in found.evidence


def test_references():
    pair, equal = make_cell((0.9, 0.3), 8, lift=1.0), make_cell((0.5, 0.5), 8, lift=0.0)
    sine, cosine = make_cell("sine", 8, lift=-1.0), make_cell("cosine", 8, lift=0.2)
    linear = make_cell("linear", 8, lift=0.0)

    def reference(*cells):
        (column,) = table(cells)
        return column.reference and column.reference.label

    assert reference(pair, sine, cosine, equal, linear) == "linear"
    assert reference(pair, sine, cosine, equal) == "Beta(0.5, 0.5)"
    assert reference(pair, sine, cosine) == "cosine"
    assert reference(pair) is None
    assert "which is the linear schedule" in str(judge([pair, equal]))
    assert "none is linear" in str(judge([pair, sine, cosine]))
    assert "nothing was tested" in str(judge([pair, make_cell((0.1, 0.1), 8)]))
    assert judge([linear]).advice == "only linear was measured"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_scores_without_variance(value):
    cells = [scored(make_cell(name, 8), [value] * 20) for name in ("linear", "sine")]
    found = judge([*cells, scored(make_cell((0.9, 0.3), 8), [0.5] * 20)])
    assert found.advice.startswith("use Beta(0.9, 0.3)" if value == 0 else "keep linear")


def test_one_instance_is_no_evidence():
    found = judge([scored(make_cell("linear", 8), [0.0]), scored(make_cell((0.9, 0.3), 8), [1.0])])
    assert not found.sure
    assert "nothing can be said" in found.evidence


def test_predictions_that_rank_like_the_measurement():
    cells = [
        make_cell("linear", 16, lift=0.0),
        make_cell((0.9, 0.3), 16, lift=2.0),
        make_cell((0.5, 0.9), 16, lift=-1.0),
    ]
    (column,) = table(cells)
    (found,) = predictions(column)
    assert found.correlation == pytest.approx(1)
    assert found.chosen is found.best
    assert found.regret is not None
    assert found.regret.value == 0
    assert not found.note


def test_regret_is_the_paired_loss_of_following_the_prediction():
    """The predicted gap points at the worst schedule; scores may be better high or low."""
    generator = np.random.default_rng(14)
    hardness = generator.normal(size=50)
    for better, sign in (("higher", 1), ("lower", -1)):
        cells = []
        for number, cell in enumerate([make_cell("linear", 8), make_cell((0.9, 0.3), 8), make_cell((0.3, 0.3), 8)]):
            (row,) = scored(cell, sign * (hardness + 0.5 * number), better).rows
            cells.append(replace(cell, rows=[row, Row("predicted_gap", float(number), None, 1, {})]))
        (column,) = table(cells)
        (found,) = predictions(column)
        assert found.correlation == pytest.approx(-1)
        assert found.chosen.label == "linear"
        assert found.regret is not None
        assert found.regret.value == pytest.approx(1)
        assert "the theorem does not cover" in found.note  # nothing says that the order is random


def test_every_profile_is_judged_and_the_one_of_the_same_kind_comes_first():
    """Two profiles, of which one ranks right; a cell that was not measured is in neither judgement."""
    cells = []
    for number, cell in enumerate([make_cell("linear", 8), make_cell((0.9, 0.3), 8), make_cell((0.3, 0.3), 8)]):
        (row,) = scored(cell, np.arange(20) + float(number), "higher").rows
        costs = {"path, likelihood": float(number), "path, solved": -float(number)}
        rows = [Row("predicted_cost", cost, None, 7, {"predictor": n, "passes": 99}) for n, cost in costs.items()]
        cells.append(replace(cell, rows=[row, *rows]))
    left_out = replace(cells[0], id="x", schedule="cosine", status="not measured", rows=cells[0].rows[1:])
    (column,) = table([*cells, left_out])
    solved, likelihood = predictions(column)
    assert (solved.predictor, solved.correlation, solved.regret.value if solved.regret else None) == (
        "path, solved", pytest.approx(1), 0,
    )  # fmt: skip
    assert (likelihood.predictor, likelihood.correlation) == ("path, likelihood", pytest.approx(-1))
    assert (solved.passes, solved.sequences) == (99, 7)
    assert solved.values["cosine"] == 0
    assert {cell.label for cell in column.unmeasured} == {"cosine"}
    assert "1 schedule was not measured" in verdict(column).evidence
    remeasured = replace(cells[0], id="y", schedule="cosine")
    assert not table([*cells, left_out, remeasured])[0].unmeasured


def test_no_predictions_no_table():
    (column,) = table([scored(make_cell("linear", 8), [0.0, 1.0])])
    assert not predictions(column)


def exact(cell: Cell, value: float) -> Cell:
    """The cell with a score that was computed by enumeration."""
    return replace(cell, rows=[Row("kl", value, None, 32, {}, "lower", exact=True)])


def test_exact_numbers_are_certain():
    """No interval, no p-value, no instances; equal but for rounding is equal."""
    cells = [
        exact(make_cell("linear", 3), 0.5),
        exact(make_cell((0.9, 0.3), 3), 0.25),
        exact(make_cell((0.3, 0.9), 3), 0.25 * (1 + 1e-13)),
        exact(make_cell("sine", 3), 0.75),
    ]
    found = judge(cells)
    assert found.sure
    assert found.advice == "use Beta(0.9, 0.3)"
    assert "kl 0.2500 against 0.5000 for linear: −0.2500, exact." in found.evidence
    assert "1 other schedule is as good." in found.evidence
    assert found.column.near_best == {"Beta(0.9, 0.3)", "Beta(0.3, 0.9)"}
    for word in ("±", "interval", "p =", "n =", "optimistic", "distinguishable", "nothing can be said"):
        assert word not in str(found), word
    kept = judge([exact(make_cell("linear", 3), 0.5), exact(make_cell("sine", 3), 0.5), exact(make_cell((1, 1), 3), 1)])
    assert kept.sure
    assert kept.advice == "keep linear: no schedule is better"
    assert "1 of 2 is worse, 1 equal." in kept.evidence
    alone = judge([exact(make_cell((0.9, 0.3), 3), 0.5)])
    assert alone.sure
    assert "nothing was tested" not in alone.evidence


def test_an_exact_and_an_estimated_number_are_compared_by_the_estimates_error():
    row = Row("kl", 0.25, 0.05, 200, {}, "lower")
    found = judge([exact(make_cell("linear", 3), 0.5), replace(make_cell((0.9, 0.3), 3), rows=[row])])
    assert "unpaired" in found.evidence
    assert "± 0.05" in found.evidence


def test_what_a_lead_costs_is_said():
    """make_cell's pairs take fewer passes the less equal they are."""
    found = judge([make_cell("linear", 16, lift=-2.0), make_cell((0.9, 0.3), 16, lift=2.0)])
    assert found.evidence.count("It took 14.1 forward passes, against 16.") == 1
    assert "It took" not in judge([make_cell("linear", 16, lift=-2.0), make_cell((1.0, 1.0), 16, lift=2.0)]).evidence


def of_tasks(cell: Cell, **values: float) -> Cell:
    """The cell with a score and its own passes for each of several tasks, as lm-eval's rows have them."""
    rows = []
    for number, (task, value) in enumerate(values.items()):
        settings = {"task": task}
        scores = [value - 0.01, value + 0.01] * 20
        rows.append(Row("exact_match", value, 0.01, 40, settings, "higher", scores))
        rows.append(Row("forward_passes", 8.0 + number, None, 40, settings))
        part = {"task": f"{task}_easy", "group": task}
        rows.append(Row("exact_match", 1.0, 0.0, 40, part, "higher", [1.0] * 40))
    return replace(cell, rows=rows)


def test_several_tasks_are_judged_one_by_one():
    cells = [
        of_tasks(make_cell("linear", 8), gsm8k=0.3, bbh=0.8),
        of_tasks(make_cell((0.9, 0.3), 8), gsm8k=0.6, bbh=0.7),
    ]
    sweep = Sweep({}, cells)
    objectives = sweep.objectives()
    assert objectives == [Objective("exact_match", "higher", task) for task in ("gsm8k", "bbh")]
    found = [verdict(column) for objective in objectives for column in columns(sweep, objective)]
    assert [v.use.label for v in found] == ["Beta(0.9, 0.3)", "linear"]
    assert [v.column.others for v in found] == [(("task", "gsm8k"),), (("task", "bbh"),)]
    assert [v.column.passes(v.use) for v in found] == [8.0, 9.0]
    assert sweep.unusable() == []
    (alone,) = Sweep({}, [of_tasks(make_cell("linear", 8), gsm8k=0.3)]).objectives()
    assert alone == Objective("exact_match", "higher")


def test_tasks_with_metrics_of_their_own():
    """And one that failed to give a number is named with its task."""
    rows = [
        Row("exact_match", 0.5, 0.1, 2, {"task": "gsm8k"}, "higher", [0.0, 1.0]),
        Row("pass@1", math.nan, 0.1, 2, {"task": "humaneval"}, "higher", [1.0, 1.0]),
    ]
    sweep = Sweep({}, [replace(make_cell("linear", 8), rows=rows)])
    assert [(o.metric, o.task) for o in sweep.objectives()] == [("exact_match", "gsm8k"), ("pass@1", "humaneval")]
    assert [reason for _, reason in sweep.unusable()] == ["pass@1 of humaneval is nan"]
    assert Sweep({"metric": "pass@1"}, sweep.cells).objectives() == [Objective("pass@1", "higher")]


def test_step_budgets_that_the_sampler_does_not_keep_are_called_what_they_are():
    bound = replace(make_cell("linear", 8), bound=True, schedule=ANY)
    free = replace(make_cell("linear", 8), bound=False, steps=None, schedule=ANY, id="free")
    own = replace(make_cell("linear", 8), bound=True, steps=None, schedule=ANY, id="own")
    found = table([bound, free, own, make_cell("linear", 8)])
    assert sorted(column.budget for column in found) == [
        "8 steps",
        "as many steps as it takes",
        "at most 8 steps",
        "one step per token",
    ]
    assert "the schedule does not matter" in judge([bound]).advice
