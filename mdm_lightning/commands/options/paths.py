"""Paths at which nothing is: known from a look at the disk, before anything that takes time is imported."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mdm_lightning.checkpoint.find import refuse_missing_checkpoint
from mdm_lightning.data.hub import refuse_missing_tokenizer
from mdm_lightning.data.text.corpus import refuse_missing
from mdm_lightning.errors import UserError


def _checkpoint(ckpt: str) -> None:
    if ckpt != "auto":  # of run_dir=, if it has one
        refuse_missing_checkpoint(ckpt)


def _advice(path: str) -> None:
    if not Path(path).expanduser().exists():
        raise UserError(f"cannot read advice={path}: No such file or directory")


REFUSALS: Mapping[str, Callable[[str], None]] = {
    "ckpt": _checkpoint,
    "advice": _advice,
    "data.path": lambda path: refuse_missing(path, "data.path"),
    "data.validation_path": lambda path: refuse_missing(path, "data.validation_path"),
    "tokenizer.name_or_path": refuse_missing_tokenizer,
}
"""Options that name something on the disk, each with what raises a UserError where nothing is there."""
