"""Train a masked diffusion language model: `python train.py --help`."""

from mdm_lightning.stopping import prepare_to_stop

prepare_to_stop()  # the imports below take seconds

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from mdm_lightning.commands.command import run_command, single_job
from mdm_lightning.commands.resume import continue_in_place
from mdm_lightning.commands.train import train


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@single_job
def main(config: DictConfig) -> float | None:
    return train(config)


def resume_or_start() -> None:
    sys.argv[1:] = continue_in_place(sys.argv[1:])
    main()


if __name__ == "__main__":
    run_command(resume_or_start, Path(__file__).parent.resolve() / "conf", "train")
