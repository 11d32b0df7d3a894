"""`python sweep.py sweep.race=true`: schedules that are significantly behind are not measured on all instances."""

import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from mdm_lightning.commands.sweep.candidates import Candidate, by_column
from mdm_lightning.commands.sweep.race import ColumnRace
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.statistics import sign_flip_test
from mdm_lightning.report.race import RaceRecord, read_races
from mdm_lightning.report.records import Cell, Sweep
from tests.commands.conftest import Measuring, incident
from tests.commands.test_evaluate import rows_of
from tests.commands.test_sweep import TWO, numbers, written
from tests.report.synthetic_sweep import make_cell

# Rounds end after 10 and 20 of the 40 problems; by likelihood, schedules differ even for a weak model.
RACE = (
    "sweep.race=true",
    "sweep.race_first=10",
    "sweep.race_level=0.4",
    "sweep.limit=20",
    "sweep.full=12",
    "schedule.alpha=0.2,0.9",
    "schedule.beta=0.2,0.9",
    "sampler.steps=2,4",
    "sweep.baselines=[linear]",
    "sweep.profile=null",
    "evaluation=likelihood",
    "evaluation.batch_size=5",
    "estimator=policy",
    "sampler=expected_confidence",
    "tokens.temperature=1",
    "sweep.metric=policy_nats_per_token",
)
METRIC = "policy_nats_per_token"


def pieces(folder: Path) -> dict[tuple, Cell]:
    """The cells as they were measured: by stage, schedule, budget, first instance."""
    read = map(Cell.read, (folder / "cells").iterdir())
    return {(cell.stage, cell.label, cell.steps, cell.first): cell for cell in read}


def races(folder: Path) -> dict[int | None, RaceRecord]:
    return {race.steps: race for race in read_races(folder)}


@pytest.fixture
def race(sweep: Measuring, task_model: Path, tmp_path: Path):
    def run(*arguments: str, start: bool = False):
        return (sweep.start if start else sweep)(
            f"ckpt={task_model}", f"sweep.dir={tmp_path / 'sweep'}", *RACE, *arguments
        )

    return run


@pytest.fixture(scope="session")
def raced(tmp_path_factory, cache, task_model) -> Path:
    """The folder of a finished race; not to be changed."""
    folder = tmp_path_factory.mktemp("raced")
    outcome = Measuring("sweep.py", folder, cache)(f"ckpt={task_model}", "sweep.dir=sweep", *RACE)
    assert outcome.status == 0, outcome.stderr
    assert "Races: " in outcome.stdout
    return folder / "sweep"


def test_who_leaves_is_behind_and_is_not_measured_any_more(raced):
    found = pieces(raced)
    assert set(races(raced)) == {2, 4}
    assert any(race.left for race in races(raced).values()), "or this test says nothing"
    for steps, race in races(raced).items():
        labels = {label for _, label, own, _ in found if own == steps}
        assert len(labels) == 5
        for label in labels:
            firsts = sorted(where for *key, where in found if key == ["race", label, steps])
            ended = 10 * len(firsts)
            assert firsts == [0, 10][: len(firsts)]
            assert race.left.get(label, ended) == ended
            if label in race.left:
                leaders = [other for other in labels if ("race", other, steps, firsts[-1]) in found]
                scores = {
                    name: np.concatenate([found["race", name, steps, first].row(METRIC).scores for first in firsts])
                    for name in {*leaders, label}
                }
                leader = min(leaders, key=lambda name: scores[name].mean())
                behind = scores[label] - scores[leader]
                assert behind.mean() > 0
                assert sign_flip_test(behind[None])[0] < 0.4


def test_the_winner_is_confirmed_on_fresh_problems(raced):
    fresh = {(label, steps): cell for (stage, label, steps, _), cell in pieces(raced).items() if stage == "refined"}
    expected = {
        (name, k) for k, race in races(raced).items() if race.winner != "linear" for name in (race.winner, "linear")
    }
    assert set(fresh) == expected
    for cell in fresh.values():
        assert cell.first == 20
        assert cell.row(METRIC).n == 12


def test_a_round_is_an_evaluation(raced, evaluate, task_model, tmp_path):
    """Round after round, the numbers are those of all instances at once; the report joins them."""
    race = races(raced)[4]
    label = race.winner
    (cell,) = (cell for cell in Sweep.load(raced).cells if (cell.stage, cell.label, cell.steps) == ("race", label, 4))
    schedule = (
        ("schedule=linear",) if cell.alpha is None
        else ("schedule=beta", f"schedule.alpha={cell.alpha}", f"schedule.beta={cell.beta}")
    )  # fmt: skip
    size = cell.row(METRIC).n
    outcome = evaluate(
        f"ckpt={task_model}",
        *RACE[10:15],
        f"evaluation.sequences={size}",
        "sampler.steps=4",
        "run_dir=whole",
        *schedule,
    )
    assert outcome.status == 0, outcome.stderr
    (whole,) = (row for row in rows_of(tmp_path / "whole") if row["metric"] == METRIC)
    assert list(cell.row(METRIC).scores) == whole["scores"]
    assert cell.row(METRIC).value == pytest.approx(whole["value"], rel=1e-12)


def test_the_report_of_a_race(raced):
    text = (raced / "report.html").read_text()
    assert "left the race" in text
    assert 'class="faint"' in text
    for race in races(raced).values():
        assert f"<td>{race.winner}</td>" in text
    every = [cell for cell in Sweep.load(raced).cells if cell.stage == "race" and cell.steps == 2]
    measured = sum(cell.row(METRIC).n for cell in every)
    assert f"{measured} of {20 * len(every)}" in (raced / "table.md").read_text()


def test_a_race_that_was_killed_goes_on(race, raced, tmp_path):
    """In its second round: no round is measured again, and it ends as if nothing had happened. How it ended before more
    schedules joined it is not remembered."""
    shutil.copytree(raced / "races", tmp_path / "sweep/races")
    begun = incident("kill", 2, first=10, until=f"{tmp_path}/over")
    assert race(*begun, start=True).wait().status == -signal.SIGKILL
    before = written(tmp_path / "sweep")
    assert {first for *_, first in pieces(tmp_path / "sweep")} == {0}
    assert set(races(tmp_path / "sweep")) == {4}  # whose turn had not come
    outcome = race(*begun)
    assert outcome.status == 0, outcome.stderr
    assert before.items() <= written(tmp_path / "sweep").items()
    assert races(tmp_path / "sweep") == races(raced)
    assert {key: cell.row(METRIC) for key, cell in pieces(tmp_path / "sweep").items()} == {
        key: cell.row(METRIC) for key, cell in pieces(raced).items()
    }


def test_a_race_with_a_cell_that_fails_stops_and_the_others_do_not(race, tmp_path):
    outcome = race(*incident("raise", 4))
    assert outcome.status == 1
    assert "a cosmic ray" in outcome.error
    assert f"sweep.dir={tmp_path / 'sweep'}" in outcome.error
    assert set(races(tmp_path / "sweep")) == {2}
    assert "the race has not ended" not in (tmp_path / "sweep/table.md").read_text()


def test_other_rules_need_another_folder(race, raced, tmp_path):
    shutil.copytree(raced, tmp_path / "sweep")
    assert "holds a sweep with another race: choose" in race("sweep.race_first=20").error
    assert "holds a sweep with another race: choose" in race("sweep.race=false").error
    profile = "{_target_:mdm_lightning.evaluation.likelihood.profile.Profile,sequences:8}"
    kept = race(f"sweep.profile={profile}")  # from which the race keeps clear: its rounds would be others
    assert "holds a sweep with another race: choose" in kept.error
    content = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert content["agreed"]["race"] == [10, 0.4]


def test_text_races_for_all_of_the_limit(sweep, text_model, tmp_path):
    """Also where not ten times as many sequences are left to confirm on: these are then fewer."""
    fewer = ("schedule.alpha=0.9", "schedule.beta=0.9", "sampler.steps=2", "sampler=expected_random")
    outcome = sweep(
        f"ckpt={text_model}",
        "sweep.dir=sweep",
        *RACE,
        *fewer,
        "sweep.limit=40",
        "sweep.race_first=40",
        "sweep.full=null",
    )
    assert outcome.status == 0, outcome.stderr
    (cell, *_) = (cell for (stage, *_), cell in pieces(tmp_path / "sweep").items() if stage == "race")
    assert cell.row(METRIC).n == races(tmp_path / "sweep")[2].instances == 40


@pytest.mark.ddp
def test_two_ranks_race_as_one(sweep, task_model, raced, tmp_path):
    first, second = sweep.on_two_ranks(f"ckpt={task_model}", *RACE, *TWO, f"sweep.dir={tmp_path}/two")
    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    assert races(tmp_path / "two") == races(raced)
    assert {key: numbers(cell) for key, cell in pieces(tmp_path / "two").items()} == {
        key: numbers(cell) for key, cell in pieces(raced).items()
    }


def test_a_column_of_one_has_nothing_to_race_with(race):
    outcome = race("schedule.alpha=0.9", "schedule.beta=0.9", "sweep.baselines=[]")
    assert outcome.status == 1
    assert "one schedule per step budget here" in outcome.error


def column(*schedules) -> list[Candidate]:
    """As cells of a grid, which are not measured."""
    (found,) = by_column(Candidate([str(schedule)], make_cell(schedule, 8)) for schedule in schedules)
    return found


def test_candidates_are_different_cells_and_the_linear_one_comes_first():
    found = column((0.9, 0.3), "sine", (0.5, 0.5), "linear", "sine")
    assert [one.cell.label for one in found] == ["linear", "Beta(0.5, 0.5)", "sine", "Beta(0.9, 0.3)"]
    both = by_column(Candidate([], make_cell("linear", steps)) for steps in (8, 16, 8))
    assert [[one.cell.steps for one in own] for own in both] == [[8], [16]]


@pytest.mark.parametrize(
    ("scores", "words"),
    [(None, "needs a score for every instance, which nats does not have"), ([1.0] * 4 + [math.inf], "finite scores"),
     ([1.0] * 4, "4 instances were measured where 5 were asked for")],
)  # fmt: skip
def test_scores_that_cannot_race(scores, words):
    rules = Race(instances=20, first=5, confirm=10)
    measure = ColumnRace(rules, 0, 30, lambda overrides: Row("nats", 1.0, None, 5, {}, "lower", scores))
    with pytest.raises(UserError, match=words):
        measure(column("linear", (0.9, 0.3)))


def test_a_race_sees_each_instance_once():
    """Lower is better here; the options say which instances, and which stage they are for."""
    seen: dict[str, list[str]] = {}

    def measure(overrides: list[str]) -> Row:
        name, *where = overrides
        seen.setdefault(name, []).append(" ".join(where))
        size = int(where[-1].partition("=")[2])
        level = 1.0 if name == "linear" else 0.5
        return Row("nats", level, None, size, {}, "lower", (level + np.arange(size) % 3 / 10).tolist())

    race = ColumnRace(Race(instances=40, first=20, confirm=10), 100, 1000, measure)(column("linear", (0.9, 0.3)))
    assert race is not None
    assert (race.winner, dict(race.left), race.instances) == ("Beta(0.9, 0.3)", {"linear": 20}, 40)
    rounds = ["sweep.stage=race evaluation.first=100 evaluation.sequences=20"]
    assert seen["linear"] == [*rounds, "sweep.stage=refined evaluation.first=140 evaluation.sequences=10"]
    assert seen["(0.9, 0.3)"] == seen["linear"]
