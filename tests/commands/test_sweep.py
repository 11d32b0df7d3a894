"""`python sweep.py`: the cells, what becomes of them when things go wrong, and the report."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdm_lightning.report.records import Cell, Sweep
from tests.commands.conftest import REPOSITORY, Measuring, incident, scalars, variables
from tests.commands.test_evaluate import rows_of
from tests.patience import SECONDS, wait_until

TWO = ("trainer=ddp", "trainer.devices=2")
# Two schedules and two budgets on a task, without baselines.
SMALL = (
    "schedule.alpha=0.5,0.9",
    "schedule.beta=0.3",
    "sampler.steps=2,4",
    "sweep.baselines=[]",
    "sweep.limit=12",
    "sweep.profile.sequences=8",
    "evaluation.batch_size=5",
    "evaluation=task",
)


def cells(folder: Path) -> dict[tuple, Cell]:
    """By stage, schedule, budget and other axes."""
    found = {(cell.stage, cell.label, cell.steps, cell.others): cell for cell in Sweep.load(folder).cells}
    assert len(found) == len(list((folder / "cells").iterdir())), "a cell is there twice"
    return found


def grid(folder: Path) -> dict[tuple[str, int | None], Cell]:
    return {(label, steps): cell for (stage, label, steps, _), cell in cells(folder).items() if stage == "grid"}


def numbers(cell: Cell) -> list:
    return [row for row in cell.rows if row.metric != "tokens_per_second"]


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


@pytest.fixture
def small(sweep: Measuring, task_model: Path, tmp_path: Path):
    """Runs the small sweep with further arguments, in a folder of its own."""

    def run(*arguments: str, folder: str = "sweep", start: bool = False):
        options = (f"ckpt={task_model}", f"sweep.dir={tmp_path / folder}", *SMALL, *arguments)
        return (sweep.start if start else sweep)(*options)

    return run


FOUR = {(label, steps) for label in ("Beta(0.5, 0.3)", "Beta(0.9, 0.3)") for steps in (2, 4)}


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache, task_model) -> Path:
    """The folder of the small sweep with a baseline, finished; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    options = (f"ckpt={task_model}", "sweep.dir=sweep", *SMALL, "sweep.baselines=[linear]", "logger=tensorboard")
    outcome = Measuring("sweep.py", folder, cache)(*options)
    assert outcome.status == 0, outcome.stderr
    assert "| linear |" in outcome.stdout
    return folder / "sweep"


def test_a_sweep_leaves_cells_tables_and_a_report(finished):
    assert set(grid(finished)) == FOUR | {("linear", 2), ("linear", 4)}
    with (finished / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["status"] for row in rows} == {"finished"}
    for (label, steps), cell in grid(finished).items():
        row = cell.row("accuracy")
        assert row is not None
        assert row.n == len(row.scores or []) == 12
        table = [r for r in rows if r["metric"] == "accuracy" and r["steps"] == str(steps)]
        listed = [r for r in table if (r["alpha"], r["beta"]) == (f"{cell.alpha or ''}", f"{cell.beta or ''}")]
        assert [float(r["value"]) for r in listed] == [row.value], label
        assert cell.row("predicted_gap") is not None
    assert "Beta(0.9, 0.3)" in (finished / "table.md").read_text()
    assert "2 steps" in (finished / "table.tex").read_text()
    assert "<img" in (finished / "report.html").read_text()


def test_tensorboard_has_a_run_per_cell(finished):
    runs = sorted(path for path in (finished / "runs/grid").iterdir() if path.is_dir())
    assert len(runs) == 6
    cell = grid(finished)["Beta(0.9, 0.3)", 4]
    (run,) = (run for run in runs if "schedule.alpha=0.9" in run.name and "sampler.steps=4" in run.name)
    row = cell.row("accuracy")
    assert row is not None
    assert scalars(run)["sweep/accuracy"] == {0: pytest.approx(row.value, rel=1e-6)}


def test_a_cell_is_an_evaluation(finished, evaluate, task_model, tmp_path):
    """With the same options, evaluate.py gives the same numbers to the last bit."""
    for (label, steps), schedule in {
        ("Beta(0.9, 0.3)", 4): ("schedule=beta", "schedule.alpha=0.9", "schedule.beta=0.3"),
        ("linear", 2): ("schedule=linear",),
    }.items():
        outcome = evaluate(
            f"ckpt={task_model}", "evaluation=task", "evaluation.sequences=12", "evaluation.batch_size=5",
            f"sampler.steps={steps}", f"run_dir={steps}", *schedule,
        )  # fmt: skip
        assert outcome.status == 0, outcome.stderr
        for row in rows_of(tmp_path / str(steps)):
            known = grid(finished)[label, steps].row(row["metric"])
            assert known is not None
            if row["metric"] != "tokens_per_second":
                assert (known.value, list(known.scores or [])) == (row["value"], row["scores"])


def test_nothing_is_run_twice(small, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "sweep")
    before = written(tmp_path / "sweep")
    lost = next(cell for cell in grid(tmp_path / "sweep").values() if cell.label == "Beta(0.9, 0.3)")
    (tmp_path / f"sweep/cells/{lost.id}.json").unlink()
    # A cell that has failed counts for nothing.
    failed = grid(tmp_path / "sweep")["linear", 2]
    content = json.loads((tmp_path / f"sweep/cells/{failed.id}.json").read_text())
    (tmp_path / f"sweep/cells/{failed.id}.json").write_text(
        json.dumps(content | {"status": "failed", "error": "no luck", "rows": []})
    )
    assert small("sweep.baselines=[linear]").status == 0
    after = written(tmp_path / "sweep")
    assert {name for name in before if before[name] != after[name]} == {f"{lost.id}.json", f"{failed.id}.json"}
    assert {key: numbers(cell) for key, cell in grid(tmp_path / "sweep").items()} == {
        key: numbers(cell) for key, cell in grid(finished).items()
    }


def test_a_finished_sweep_can_be_extended(small, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "sweep")
    before = written(tmp_path / "sweep")
    assert small("sweep.baselines=[linear]", "sampler.steps=2,4,3").status == 0
    assert before.items() <= written(tmp_path / "sweep").items()
    assert set(grid(tmp_path / "sweep")) == {(label, steps) for label, _ in grid(finished) for steps in (2, 3, 4)}


@pytest.mark.parametrize(
    ("change", "word"),
    [("seed=1", "seed"), ("sweep.limit=11", "limit"), ("order=confidence", "order"),
     ("tokens.temperature=0.5", "tokens"), ("sampler.guidance.scale=1", "sampler"),
     ("evaluation.batch_size=6", "evaluation"), ("trainer.precision=64-true", "precision")],
)  # fmt: skip
def test_other_conditions_need_another_folder(small, finished, tmp_path, change, word):
    shutil.copytree(finished, tmp_path / "sweep")
    before = written(tmp_path / "sweep")
    outcome = small(change)
    assert outcome.status == 1
    assert f"holds a sweep with another {word}: choose another sweep.dir=" in outcome.error
    assert written(tmp_path / "sweep") == before


def test_another_checkpoint_needs_another_folder(small, finished, text_model, tmp_path):
    shutil.copytree(finished, tmp_path / "sweep")
    assert "with another checkpoint: choose" in small(f"ckpt={text_model}").error


def test_the_report_is_built_again(sweep, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "sweep")
    names = ("report.html", "results.csv", "table.md", "table.tex")
    for name in names:
        (tmp_path / "sweep" / name).unlink()
    outcome = sweep("report=sweep")
    assert outcome.status == 0, outcome.stderr
    for name in names:
        assert (tmp_path / "sweep" / name).read_bytes() == (finished / name).read_bytes(), name
    assert "nowhere does not exist" in sweep(f"report={tmp_path / 'nowhere'}").error


def test_any_other_axis(small, tmp_path):
    assert small("schedule.alpha=0.9", "sampler.steps=2", "order=random,confidence", "sweep.profile=null").status == 0
    assert set(cells(tmp_path / "sweep")) == {
        ("grid", "Beta(0.9, 0.3)", 2, (("order", name),)) for name in ("random", "confidence")
    }


def test_the_shortlist_is_measured_on_fresh_problems(small, evaluate, task_model, tmp_path):
    assert small("sampler.steps=3", "sweep.refine=1", "sweep.baselines=[linear]", "sweep.profile=null").status == 0
    found = cells(tmp_path / "sweep")
    grid_accuracy = {label: cell.row("accuracy") for (stage, label, *_), cell in found.items() if stage == "grid"}
    refined = {label: cell.row("accuracy") for (stage, label, *_), cell in found.items() if stage == "refined"}
    betas = {label: row.value for label, row in grid_accuracy.items() if row and label != "linear"}
    winner = max(betas, key=lambda label: betas[label])
    assert set(refined) == {winner, "linear"}
    # The first 12 of the 40 problems chose the winner, and the other 28 judge it.
    options = ("evaluation=task", "evaluation.batch_size=5", "sampler.steps=3", "run_dir=all", "schedule=linear")
    assert evaluate(f"ckpt={task_model}", *options).status == 0
    scores = next(row["scores"] for row in rows_of(tmp_path / "all") if row["metric"] == "accuracy")
    first, rest = grid_accuracy["linear"], refined["linear"]
    assert first is not None
    assert rest is not None
    assert [*(first.scores or []), *(rest.scores or [])] == scores
    assert "28" in (tmp_path / "sweep/table.md").read_text()


def test_text_is_generated_and_judged(sweep, text_model, tmp_path):
    """Refinement then takes ten times as many new samples."""
    outcome = sweep(
        f"ckpt={text_model}", "sweep.dir=sweep", "schedule.alpha=0.9", "schedule.beta=0.3", "sampler.steps=2",
        "sweep.baselines=[]", "sweep.limit=3", "sweep.profile=null", "sweep.refine=1",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    sizes = {stage: len(cell.rows[0].scores or []) for (stage, *_), cell in cells(tmp_path / "sweep").items()}
    assert sizes == {"grid": 3, "refined": 30}


def test_a_cell_that_fails_does_not_take_the_others_down(small, tmp_path):
    outcome = small(*incident("raise", 4), "sweep.profile=null")
    assert outcome.status == 1
    assert "2 of 4 cells failed" in outcome.error
    assert "a cosmic ray" in outcome.error
    assert {key: cell.status for key, cell in grid(tmp_path / "sweep").items()} == {
        (label, steps): "failed" if steps == 4 else "finished" for label, steps in FOUR
    }
    assert "Beta(0.9, 0.3)" in (tmp_path / "sweep/table.md").read_text()


def test_an_axis_of_which_one_value_is_wrong_has_no_cell(small, tmp_path):
    outcome = small("schedule.alpha=-1,0.9")
    assert outcome.status == 1
    assert "schedule.alpha must be positive and finite, got -1" in outcome.error
    assert not (tmp_path / "sweep/cells").exists()


def test_killed_then_run_again(small, tmp_path):
    """At most the cell that ran is lost."""
    options = (*incident("kill", 4, until=f"{tmp_path}/over"), "sweep.profile=null")
    assert small(*options, start=True).wait().status == -signal.SIGKILL
    before = written(tmp_path / "sweep")
    assert {key for key in grid(tmp_path / "sweep")} == {("Beta(0.5, 0.3)", 2)}
    assert small(*options).status == 0
    assert before.items() <= written(tmp_path / "sweep").items()
    assert set(grid(tmp_path / "sweep")) == FOUR


def test_a_folder_has_one_sweep_at_a_time(small, tmp_path):
    options = (*incident("wait", 2, until=f"{tmp_path}/over"), "sweep.profile=null")
    (tmp_path / "second").mkdir()
    first = small(*options, start=True)
    wait_until((tmp_path / "sweep/sweep.json").exists, "the first sweep")
    second = small(*options)
    assert second.status == 1
    assert "another sweep is running in" in second.error
    (tmp_path / "over").touch()
    assert first.wait().status == 0
    assert set(grid(tmp_path / "sweep")) == FOUR


def test_an_interrupted_sweep_can_go_on(small, tmp_path):
    options = (*incident("interrupt", 4), "sweep.profile=null")
    outcome = small(*options)
    assert outcome.status == 130
    assert outcome.stderr.splitlines()[-1] == "interrupted"
    assert set(grid(tmp_path / "sweep")) == {("Beta(0.5, 0.3)", 2)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "trainer.devices=1,2"], "trainer.devices cannot be swept"),
        (["ckpt=null"], "sweep.py needs a checkpoint"),
        (["ckpt=nowhere"], "ckpt=nowhere does not exist"),
        (["evaluation=generation"], "for text; for tasks choose evaluation=task"),
        (["evaluation.task.batch_size=0"], "batch_size must be at least 1"),
        (["sampler.steps=two,four"], "sampler.steps must be a whole number or null, got two"),
        (["trainer.devices=100000"], "trainer.devices=100000"),
        (["hydra/launcher=joblib", "trainer.devices=2"], "leave out trainer.devices=2"),
        (["nonsense=1"], "nonsense"),
    ],
)
def test_what_cannot_be_swept(small, arguments, words):
    if "hydra/launcher=joblib" in arguments:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    outcome = small(*arguments)
    assert outcome.status == 1
    assert words in outcome.error


@pytest.mark.ddp
def test_two_ranks_give_the_numbers_of_one(sweep, task_model, finished, tmp_path):
    """As under torchrun: one folder, which the first rank writes."""
    options = (f"ckpt={task_model}", *SMALL, *TWO, "sweep.baselines=[linear]")
    first, second = sweep.on_two_ranks(*options, f"sweep.dir={tmp_path}/two")
    assert (first.status, second.status) == (0, 0), first.stderr + second.stderr
    assert "| linear |" in first.stdout
    assert "| linear |" not in second.stdout
    one, two = grid(finished), grid(tmp_path / "two")
    assert {key: numbers(cell) for key, cell in one.items()} == {key: numbers(cell) for key, cell in two.items()}
    assert not [path for rank in (0, 1) for path in (tmp_path / f"rank{rank}").iterdir() if path.is_dir()]
    # Without a folder that they agree on, they do not begin.
    assert "give sweep.dir=FOLDER" in sweep.on_two_ranks(*options)[0].error


@pytest.mark.ddp
@pytest.mark.parametrize("rank", [0, 1])
def test_a_cell_that_fails_on_one_rank_fails_on_all(sweep, task_model, tmp_path, rank):
    options = (f"ckpt={task_model}", f"sweep.dir={tmp_path}/two", *SMALL, *TWO, "sweep.profile=null")
    first, second = sweep.on_two_ranks(*options, *incident("raise", 4, rank=rank))
    assert first.status == 1
    assert "2 of 4 cells failed" in first.error
    assert "a cosmic ray" in first.error
    assert second.status == 0, second.stderr
    found = grid(tmp_path / "two")
    assert {key: cell.status for key, cell in found.items()} == {
        (label, steps): "failed" if steps == 4 else "finished" for label, steps in FOUR
    }
    told = "RuntimeError: a cosmic ray"
    assert found["Beta(0.5, 0.3)", 4].error == (told if rank == 0 else f"rank 1: {told}")
    assert (tmp_path / "two/report.html").exists()


@pytest.mark.ddp
@pytest.mark.slow
def test_launched_ranks_of_which_one_is_killed(small, tmp_path):
    """Through the project's own launcher: the finished cells stay, and the same command goes on."""
    options = (*TWO, *incident("kill", 4, rank=1, until=f"{tmp_path}/over"), "sweep.profile=null")
    outcome = small(*options)
    assert outcome.status == 1
    assert outcome.error == "error: rank 1 was killed by SIGKILL"
    kept = {key for key, cell in grid(tmp_path / "sweep").items() if cell.finished}
    assert kept == {("Beta(0.5, 0.3)", 2)}
    before = written(tmp_path / "sweep")
    again = small(*options)
    assert again.status == 0, again.stderr
    after = written(tmp_path / "sweep")
    assert {name for name in before if before[name] == after[name]} == {
        f"{cell.id}.json" for key, cell in grid(tmp_path / "sweep").items() if key in kept
    }
    assert all(cell.finished for cell in grid(tmp_path / "sweep").values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "option"),
    [("joblib", "hydra.launcher.n_jobs=2"), ("submitit_local", "hydra.launcher.timeout_min=1000")],
)
def test_cells_as_jobs_of_their_own(task_model, finished, cache, tmp_path, launcher, option):
    """In real interpreters: the launchers start processes in their own ways."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    command = [
        sys.executable, str(REPOSITORY / "sweep.py"), f"ckpt={task_model}", "sweep.dir=sweep", *Measuring.QUICK, *SMALL,
        "schedule.alpha=0.9", "sampler.steps=2,4", f"hydra/launcher={launcher}", option,
    ]  # fmt: skip
    last = list({argument.split("=")[0]: argument for argument in command}.values())
    done = subprocess.run(
        last, cwd=tmp_path, env=variables(cache), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    jobs = grid(tmp_path / "sweep")
    assert set(jobs) == {("Beta(0.9, 0.3)", 2), ("Beta(0.9, 0.3)", 4)}
    for key, cell in jobs.items():
        assert numbers(cell) == numbers(grid(finished)[key])


def test_a_search_for_alpha_and_beta(small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    outcome = small(
        "hydra/sweeper=optuna", "schedule.alpha=interval(0.1,2)", "schedule.beta=interval(0.1,2)", "sampler.steps=3",
        "hydra.sweeper.n_trials=4", "hydra.sweeper.direction=maximize", "sweep.baselines=[linear]",
        "sweep.profile=null",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    found = grid(tmp_path / "sweep")
    searched = [cell for cell in found.values() if cell.alpha is not None]
    assert len(searched) == 4
    assert all(0.1 <= cell.alpha <= 2 and 0.1 <= (cell.beta or 0) <= 2 for cell in searched if cell.alpha)
    best = (tmp_path / "sweep/optimization_results.yaml").read_text()
    values = [row.value for cell in searched if (row := cell.row("accuracy"))]
    assert f"best_value: {max(values)}" in best
    assert ("linear", 3) in found
