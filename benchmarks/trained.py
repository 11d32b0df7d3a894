"""A trained run as what is measured: what the scripts about orders and advice have in common."""

import argparse

from mdm_lightning.checkpoint.load import load
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A command line of runs, with a seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or what else ckpt= may name")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def subject_of(run: str, seed: int) -> Subject:
    """The run's averaged weights, with the data that it was trained on.

    Raises:
        UserError: there is no such run, or its data are not known.
    """
    loaded = load(run)
    if loaded.prepare is None:
        raise UserError(f"what {loaded.name} was trained on is not known")
    data = loaded.prepare()
    return Subject(
        loaded.denoiser, loaded.tokenizer, loaded.length, lambda: data, task=data.task, device=loaded.device, seed=seed
    )
