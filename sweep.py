"""Sweep mask schedules against step budgets: `python sweep.py ckpt=last`; `python sweep.py --help`."""

from mdm_lightning.stopping import prepare_to_stop

prepare_to_stop()  # the imports below take seconds

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from mdm_lightning.commands.command import run_command
from mdm_lightning.commands.sweep.cell import run_cell
from mdm_lightning.commands.sweep.sweep import sweep


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def main(config: DictConfig) -> float | None:
    return run_cell(config)


if __name__ == "__main__":
    conf = Path(__file__).parent.resolve() / "conf"
    run_command(lambda: sweep(sys.argv[1:], main, conf), conf, "sweep")
