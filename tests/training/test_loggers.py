"""The log of a run that was killed and goes on is that of a run that was never stopped."""

import csv
from pathlib import Path

import pytest

from mdm_lightning.training.loggers import CsvLog, MlflowLog, WandbLog


def feed(logger, steps) -> None:
    for step in steps:
        logger.log_metrics({"train/loss": 1 / step, **({"new": 0.1} if step > 3 else {})}, step)
        if step % 2 == 0:
            logger.log_metrics({"val/loss": 2 / step}, step)


def test_csv_rows_are_there_at_once_and_go_on(tmp_path):
    feed(CsvLog(str(tmp_path / "whole"), 0), range(1, 9))
    feed(CsvLog(str(tmp_path / "cut"), 0), range(1, 7))  # killed: nothing is finalized
    path = tmp_path / "cut/csv/metrics.csv"
    with path.open("a") as file:
        file.write("7,0.1")  # in the middle of a row
    resumed = CsvLog(str(tmp_path / "cut"), 4)
    resumed.log_metrics({"val/loss": 0.5}, 4)  # the validation that was pending then
    feed(resumed, range(5, 9))
    assert path.read_bytes() == (tmp_path / "whole/csv/metrics.csv").read_bytes()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(s) for step in range(1, 9) for s in [step] * (2 - step % 2)]


def test_a_csv_log_of_no_run_begins_anew(tmp_path):
    for _ in range(2):
        feed(CsvLog(str(tmp_path), None), range(1, 3))
    assert len((tmp_path / "csv/metrics.csv").read_text().splitlines()) == 1 + 3


def test_csv_settings(tmp_path):
    logger = CsvLog(str(tmp_path), 0)
    logger.log_hyperparams({"optimizer.lr": 0.1})
    assert (tmp_path / "csv/hparams.yaml").read_text() == "optimizer.lr: 0.1\n"


def test_mlflow_has_one_run(tmp_path):
    pytest.importorskip("mlflow")
    options = {"experiment_name": "e", "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    begun = MlflowLog(str(tmp_path), 0, **options)
    feed(begun, range(1, 7))
    begun.log_hyperparams({"lr": 0.1, "max_steps": 6})
    begun.finalize("failed")
    resumed = MlflowLog(str(tmp_path), 4, **options)
    feed(resumed, range(5, 9))
    resumed.log_hyperparams({"lr": 0.1, "max_steps": 8})
    resumed.finalize("success")
    assert resumed.run_id == begun.run_id
    (run,) = resumed.experiment.search_runs([resumed.experiment_id])
    assert (run.info.status, run.data.params["lr"], run.data.tags["max_steps"]) == ("FINISHED", "0.1", "8")
    for name, steps in (("train/loss", range(1, 9)), ("val/loss", range(2, 9, 2)), ("new", range(4, 9))):
        history = resumed.experiment.get_metric_history(run.info.run_id, name)
        assert sorted(entry.step for entry in history) == list(steps)
    measured = MlflowLog(str(tmp_path), None, **options)  # an evaluation in the same folder is another run
    assert measured.run_id != begun.run_id
    assert MlflowLog(str(tmp_path), 8, **options).run_id == begun.run_id


def test_wandb_has_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    identities: list[str] = []
    rows: list[tuple[float, str]] = []
    for resume_step in (0, 4):
        logger = WandbLog(str(tmp_path), resume_step, project="p", offline=True)
        sent: list[dict[str, float]] = []
        monkeypatch.setattr(logger.experiment, "log", lambda row, sent=sent, **options: sent.append(row))
        feed(logger, range(resume_step + 1, resume_step + 7 - resume_step // 2))
        identities.append(logger.experiment.id)
        rows += [(row["trainer/global_step"], min(row.keys() - {"trainer/global_step"})) for row in sent]
        logger.finalize("failed")
    assert identities[0] == identities[1]
    assert len(rows) == len(set(rows)) == 8 + 4  # the first was killed at step 6, and goes on from step 4
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert {folder.name.rpartition("-")[2] for folder in folders} == {identities[0]}
    assert WandbLog(str(tmp_path), None, project="p", offline=True).version != identities[0]
    assert WandbLog(str(tmp_path), 0, project="p", offline=True, id="mine").version == "mine"
