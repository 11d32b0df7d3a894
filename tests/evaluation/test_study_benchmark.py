"""`benchmarks/study.py`: its parts are measured once, agree with theory and with each other, and make the tables."""

import importlib
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from mdm_lightning.diffusion.profile.cross_fitting import Estimate
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.scorers import NgramScorer
from tests.commands.conftest import REPOSITORY
from tests.sampling.toys import TinyDenoiser

from .corpora import Rows, text_subject
from .test_task import task_subject

LENGTH, SEQUENCES = 8, 200


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def subject(seed: int = 0) -> Subject:
    """A text of three letters and an untrained denoiser."""
    tokens = np.random.default_rng(0).integers(0, 3, size=(SEQUENCES, LENGTH))
    plain = text_subject(["abc" * 40], ["abc"])
    data = replace(plain.data, train=Rows(tokens), validation=Rows(tokens), length=LENGTH)
    denoiser = TinyDenoiser(plain.tokenizer.vocab_size, LENGTH, seed=3)
    return replace(plain, denoiser=denoiser, length=LENGTH, prepare=lambda: data, seed=seed)


def small():
    from study_parts.size import TINY

    return replace(TINY, budgets=(1, 2, 4), sequences=40, walked=20, gammas=(0, 2), thresholds=(1.0,))


def measured(seed: int = 0) -> dict:
    """All parts of a text but the race."""
    from study_parts import text

    one, size = subject(seed), small()
    return {
        "profile": text.profile(one, size),
        "likelihood": list(text.likelihood(one, size)),
        "adaptive": text.adaptive(one, size),
        "frontier": text.frontier(one, NgramScorer(order=2), size),
    }


@pytest.fixture(scope="module")
def found() -> dict:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        return measured()
    finally:
        sys.path.remove(str(REPOSITORY / "benchmarks"))


def test_a_part_that_is_there_is_not_measured_again(tmp_path):
    from study_parts.results import Results, read

    results, asked = Results(tmp_path / "seed0" / "text"), {"sequences": 4, "budgets": (1, 2)}
    results.part("one", asked, lambda: {"value": 0.5})
    results.part("one", asked, lambda: pytest.fail("measured again"))
    assert read(results.folder) == {"one": {"value": 0.5}}
    with pytest.raises(UserError, match="other settings"):
        results.part("one", {**asked, "sequences": 5}, dict)


def test_a_part_that_fails_leaves_no_file(tmp_path):
    from study_parts.results import Results

    def fail() -> None:
        raise UserError("no")

    with pytest.raises(UserError):
        Results(tmp_path).part("one", {}, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_decides_on_everything(found):
    assert measured() == found
    other = measured(1)
    for part in found:
        assert other[part] != found[part]


def test_walks_in_random_order_cost_what_the_loss_profile_says(found):
    for steps, (value, stderr) in found["profile"]["nelbo"].items():
        (cell,) = (
            one for one in found["likelihood"]
            if (one["order"], one["name"], one["steps"]) == ("Random", "Linear", int(steps))
        )  # fmt: skip
        walks = Estimate.of(np.array(cell["scores"]))
        assert walks.value == pytest.approx(value, abs=4 * (stderr + walks.stderr))
    assert found["profile"]["nelbo"]["1"][0] != found["profile"]["nelbo"]["4"][0]


def test_all_orders_and_schedules_are_there_and_agree_where_there_is_one_step(found):
    cells = found["likelihood"]
    assert len(cells) == 6 * 10 * 3
    for first in range(20):
        nats = [cell["scores"][first] for cell in cells if cell["steps"] == 1]
        assert nats == pytest.approx([nats[0]] * 60)


def test_an_adaptive_count_that_reveals_one_at_a_time_is_the_planned_one(found):
    every = found["adaptive"]
    slow = [cell for cell in every if set(cell["passes"]) == {LENGTH}]
    assert slow, [cell["passes"] for cell in every]
    for cell in slow:
        own = cell["planned"][cell["order"]]
        assert cell["scores"] == pytest.approx(own)


def test_the_report_is_made_from_files_alone(found, tmp_path):
    from study_parts.report import write_report
    from study_parts.results import Results

    for seed in (0, 1):
        for part, content in found.items():
            Results(tmp_path / f"seed{seed}" / "text").part(part, {"seed": seed}, lambda content=content: content)
    table = write_report(tmp_path)
    first = (tmp_path / "study.md").read_text()
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert names == {"profiles", "orders", "schedules", "frontiers", "adaptive"}
    assert "nan" not in first
    # Two seeds that are the same replicate each other, wherever there is something to replicate.
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert [row[1] for row in rows] == ["1", "2", "4"]
    assert rows[0][3] == "Random with Linear"
    assert {row[7] for row in rows} <= {"yes", "nothing sure"}
    assert rows[0][7] == "nothing sure"
    shutil.rmtree(tmp_path / "figures")
    write_report(tmp_path)
    assert (tmp_path / "study.md").read_text() == first


def grid(scores: dict[str, list[float]]):
    from study_parts.answers import Grid

    cells = {
        (order, "Linear"): {"scores": values, "schedule": "Linear", "name": "Linear"}
        for order, values in scores.items()
    }
    return Grid(cells, ("Random", "Linear"), -1)


def test_a_gain_that_is_chance_does_not_survive_cross_fitting():
    """Of many orders that are as good as random order, the best looks better than it is."""
    generator = np.random.default_rng(1)
    flattered, fair = [], []
    for _ in range(30):
        one = grid({name: generator.normal(size=40).tolist() for name in ("Random", *map(str, range(30)))})
        flattered.append(one.mean(one.best()).value)
        fair.append(one.cross_fitted().value)
    assert np.mean(flattered) > 0.3
    assert abs(Estimate.of(np.array(fair)).value) < 4 * Estimate.of(np.array(fair)).stderr


def test_what_does_not_replicate_is_called_so():
    from study_parts.answers import replicated

    def seed(a: float, b: float):
        wiggle = np.linspace(-0.1, 0.1, 20)
        return grid({"Random": (1 + wiggle).tolist(), "A": (a - wiggle).tolist(), "B": (b + wiggle**2).tolist()})

    assert replicated([seed(0.5, 0.8)]) == "-"
    assert replicated([seed(0.5, 0.8), seed(0.6, 0.9)]) == "yes"
    assert replicated([seed(0.5, 0.8), seed(0.6, 0.2)]) == "gain, not order"
    assert replicated([seed(0.5, 0.8), seed(1.2, 0.9)]) == "no"
    assert replicated([seed(1.5, 1.8), seed(1.2, 1.1)]) == "nothing sure"
    assert replicated([seed(1.5, 1.8), seed(0.2, 1.1)]) == "no"


def test_a_task_is_measured_and_reported(tmp_path):
    from study_parts import tasks
    from study_parts.report import write_report
    from study_parts.results import Results
    from study_parts.size import TINY

    task = task_subject({"aaa": 0.4, "bbb": 0.3, "aba": 0.3}, problems=200)
    results = Results(tmp_path / "seed0" / "doubling")
    results.part("accuracy", {}, lambda: list(tasks.accuracy(task, TINY)))
    results.part("advice", {}, lambda: tasks.advice(task, TINY))
    assert "| doubling | 2 |" in write_report(tmp_path)
    assert (tmp_path / "figures" / "tasks.png").is_file()


@pytest.mark.parametrize("name", ["CPU", "GPU", "TINY"])
def test_its_trainings_can_be_typed(name):
    from study_parts.models import CORPORA, options_of

    size = getattr(importlib.import_module("study_parts.size"), name)
    twins = [f"{data}-twin" for data in CORPORA if size.twin]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        for data in (*CORPORA, *twins, *size.tasks):
            config = compose("train", options_of(data, size, 7, "text.txt"))
            assert config.seed == 7
            assert config.lr_schedule.warmup_steps < config.trainer.max_steps


def test_data_that_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch):
    from study import main

    monkeypatch.setattr(sys, "argv", ["study.py", "--out", str(tmp_path / "out"), "--data", "english"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value) == (
        "error: --data english: choose of stdlib, sudoku, dyck (english needs --english FILE)"
    )
    assert not (tmp_path / "out").exists()
