"""`python evaluate.py compare=[...]` and `mdm.compare` on what `python train.py` made."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import mdm_lightning as mdm
from mdm_lightning.errors import UserError
from tests.commands.conftest import TINY, Command, variables


@pytest.fixture(scope="session")
def deeper(text_model: Path, tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    """A run of another model, with other steps and another logger, on the same text."""
    return _trained(tmp_path_factory, corpus, cache, "model.depth=3", "trainer.max_steps=6", "logger=csv")


@pytest.fixture(scope="session")
def spelled(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    """A run with other tokens on the same text."""
    return _trained(tmp_path_factory, corpus, cache, "tokenizer=character", "trainer.max_steps=4")


def _trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path, *arguments: str) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    last = {option.split("=")[0]: option for option in (*TINY, f"data.path={corpus}", "run_dir=run", *arguments)}
    assert Command("train.py", list(last.values()), folder, variables(cache)).wait().status == 0
    return folder / "run"


def test_runs_of_different_models_and_step_counts(evaluate, text_model, deeper, tmp_path):
    outcome = evaluate(f"compare=[{text_model},{deeper}]", "evaluation.sequences=20", "run_dir=beside")
    assert outcome.status == 0, outcome.stderr
    folder = tmp_path / "beside"
    assert {"comparison.md", "comparison.html", "curves.png"} <= {path.name for path in folder.iterdir()}
    text = (folder / "comparison.md").read_text("utf-8")
    assert text.replace("\\", "") in outcome.stdout
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    steps = {line[0]: line[1] for line in lines if len(line) == 7}
    settings = {line[0]: line[1:] for line in lines if len(line) == 3}
    assert [taken for name, taken in steps.items() if name not in ("model", "---")] == ["10", "6"]
    assert settings["model.depth"] == ["2", "3"]
    assert settings["trainer.max\\_steps"] == ["10", "6"]
    assert not any("run\\_dir" in name for name in settings)
    assert "paired, n = 20" in text


def test_other_tokens_and_what_cannot_be_compared(evaluate, text_model, spelled, task_model):
    outcome = evaluate(f"compare=[{text_model},{spelled}]", "run_dir=beside")
    assert outcome.status == 0, outcome.stderr
    assert "bits per byte (unpaired, other tokens" in outcome.stdout
    outcome = evaluate(f"compare=[{text_model},{task_model}]", "run_dir=apart")
    assert outcome.status == 1
    assert "are not the same text" in outcome.error


def test_what_is_no_run_yet(evaluate, text_model, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(text_model / "config.yaml", begun)
    for named, said in ((begun, "that run has saved nothing yet"), (text_model, "the same checkpoint twice")):
        outcome = evaluate(f"compare=[{text_model},{named}]")
        assert outcome.status == 1
        assert said in outcome.error


def test_from_python(text_model, deeper, spelled, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("MDM_CACHE", str(cache))
    first, second, third = (mdm.load(run, device="cpu") for run in (text_model, deeper, spelled))
    beside = mdm.compare([first, second, first], names=["one", "two", "three"], sequences=12)
    assert [model.name for model in beside.models] == ["one", "two", "three"]
    assert beside.differences[1] == (0, 0)
    scores = [np.array(model.rows[0].scores) for model in beside.models]
    assert beside.differences[0].value == pytest.approx((scores[1] - scores[0]).mean())
    assert "two" in beside._repr_html_()
    assert beside.plot() is not None
    assert beside.write(tmp_path / "new").is_file()
    texts = ["to be or not to be " * 20]
    assert mdm.compare([first, second], texts).models[0].rows[0].settings["data"] == "texts"
    with pytest.raises(UserError, match="are not the same text"):
        mdm.compare([first, third], texts)
