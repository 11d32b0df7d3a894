"""Evaluate a checkpoint: `python evaluate.py ckpt=last`; `python evaluate.py --help`."""

from mdm_lightning.stopping import prepare_to_stop

prepare_to_stop()  # the imports below take seconds

from pathlib import Path

import hydra
from omegaconf import DictConfig

from mdm_lightning.commands.command import run_command, single_job
from mdm_lightning.commands.evaluate import evaluate


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@single_job
def main(config: DictConfig) -> None:
    evaluate(config)


if __name__ == "__main__":
    run_command(main, Path(__file__).parent.resolve() / "conf", "evaluate")
