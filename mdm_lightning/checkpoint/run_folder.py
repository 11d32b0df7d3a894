"""The folder of a run, as training makes it."""

import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mdm_lightning.checkpoint.find import CHECKPOINTS, CONFIG, LAST
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError

TOKENIZER = "tokenizer"


def refuse_occupied(folder: Path, going_on: Path | None) -> None:
    """Nothing is trained over a run that is there.

    Args:
        going_on: the checkpoint from which this folder's run goes on; None if none does.

    Raises:
        UserError: there is another one.
    """
    last = folder / CHECKPOINTS / LAST
    if going_on == last:
        return
    if (folder / CONFIG).exists() or any((folder / CHECKPOINTS).glob("*.ckpt")):
        raise UserError(f"{folder} holds a run: go on with it by ckpt=auto, or choose another run_dir=")
    refuse_results(folder)


def refuse_results(folder: Path) -> None:
    """No evaluation replaces the results of another one, or of a training.

    Raises:
        UserError: there are some.
    """
    found = next((name for name in (CONFIG, "results.json", "comparison.html") if (folder / name).exists()), None)
    if found is not None:
        raise UserError(f"{folder} holds earlier results, which would be lost ({found}): choose another run_dir=")


def save_run(folder: Path, config: DictConfig, tokenizer: Tokenizer) -> None:
    """Makes the run folder self-contained: the resolved configuration and the tokenizer."""
    (folder / CONFIG).write_text(OmegaConf.to_yaml(config, resolve=True))
    tokenizer.save(folder / TOKENIZER)


def discard_beginning(folder: Path) -> None:
    """Removes what a run that never took a step has written."""
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    for path in (folder / CONFIG, folder / "hparams.yaml", *folder.glob("events.out.tfevents.*")):
        path.unlink(missing_ok=True)
