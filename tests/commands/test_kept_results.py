"""What one evaluation has found, another does not lose: folders, and scorers that stay the same."""

import os
from pathlib import Path

from filelock import FileLock
from omegaconf import OmegaConf

from mdm_lightning.commands.subject import pin_scorer


def test_one_evaluation_at_a_time_has_a_folder(evaluate, text_model, tmp_path):
    """Two that begin in the same second are given the same folder, and the later one took the results of the other."""
    ask = (f"ckpt={text_model}", "evaluation=profile", f"run_dir={tmp_path}/taken")
    lock = FileLock(tmp_path / "taken" / ".lock")
    (tmp_path / "taken").mkdir()
    with lock:
        error = evaluate(*ask).error
    assert "another evaluation is running in" in error
    assert "another run_dir=" in error
    assert not (tmp_path / "taken" / "results.csv").exists()
    assert evaluate(*ask).status == 0


def test_an_evaluation_replaces_no_results(train, evaluate, text_model, tmp_path):
    """Neither those of another one, nor those of a training; and no training replaces them."""
    assert evaluate(f"ckpt={text_model}", "evaluation=likelihood", "run_dir=mine").status == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "mine").glob("results.*")}
    for refused in (
        evaluate(f"ckpt={text_model}", "evaluation=profile", "run_dir=mine"),
        evaluate(f"ckpt={text_model}", "evaluation=profile", f"run_dir={text_model}"),
        train("run_dir=mine"),
    ):
        assert refused.status == 1
        assert "holds earlier results, which would be lost" in refused.error
    assert {path: path.read_bytes() for path in (tmp_path / "mine").glob("results.*")} == kept


def test_the_last_run_as_a_scorer_stays_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def begin(name: str, seconds: float) -> Path:
        file = tmp_path / "outputs" / name / "checkpoints/last.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (seconds, seconds))
        return file

    first = begin("first", 1e9)
    config = OmegaConf.create({"scorer": {"ckpt": "last"}})
    assert pin_scorer(config) == [f"scorer.ckpt='{first}'"]
    begin("second", 2e9)
    assert pin_scorer(config) == []
    assert config.scorer.ckpt == str(first)
