"""The trainings of a study: commands that could be typed."""

import subprocess
import sys
from pathlib import Path

from mdm_lightning.checkpoint.run_scorer import RunScorer
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.generation.scorers import NgramScorer, Scorer
from study_parts.size import Size

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = ("stdlib", "english")


def options_of(data: str, size: Size, seed: int, english: str | None) -> list[str]:
    """What is typed behind ``train.py`` for a set of data, or for ``DATA-twin``, the scorer of its texts."""
    common = [*size.trainer, f"seed={seed}"]
    corpus, _, twin = data.partition("-")
    if corpus not in CORPORA:
        return [*size.tasks[data], f"data.seed={seed}", *common]
    # The English text may be short; a part of it this large has sequences enough to be looked at.
    of_data = ["data=files", f"data.path={english}", "data.validation_fraction=0.15"]
    return [*(of_data if corpus == "english" else ["data=stdlib"]), *(size.twin if twin else size.text), *common]


def scorer_of(data: str, runs: Path, size: Size, seed: int, english: str | None) -> Scorer:
    """What scores generated texts: an autoregressive twin of the model, or a 5-gram model."""
    if not size.twin:
        return NgramScorer()
    return RunScorer(str(train(f"{data}-twin", runs / f"{data}-twin", size, seed, english)))


def train(data: str, run: Path, size: Size, seed: int, english: str | None) -> Path:
    """The run of a model: trained, unless it is complete; one that was interrupted goes on.

    Raises:
        UserError: the training failed; what it said is in the file beside the run's folder.
    """
    if (run / "results.json").is_file():
        return run
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_suffix(".log")
    options = [*options_of(data, size, seed, english), f"run_dir={run}", "trainer.enable_progress_bar=false"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *options, "ckpt=auto"]
    with log.open("w") as file:
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise UserError(f"training {run.name} failed: see {log}")
    return run
