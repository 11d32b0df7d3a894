"""The command line of a run that goes on: its place, and its choices of groups where the command line says nothing."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdm_lightning.checkpoint.find import CHECKPOINTS, LAST, RUNS, find_checkpoint, names_published
from mdm_lightning.commands.options.command_line import override, parse
from mdm_lightning.errors import UserError

CHOICE = re.compile(r"[a-z_]+(@[a-z_.]+)?=[\w-]+")
"""A choice of a configuration group."""


def continue_in_place(arguments: list[str]) -> list[str]:
    """Command-line arguments, extended by a run's place and choices of groups if they say to go on with it.

    Hydra must know the output folder, and which options there are, before it reads the command line. Another checkpoint
    than the last (the best, say) starts a new folder: what came after it is not overwritten.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    values = dict(argument.split("=", 1) for argument in arguments if "=" in argument and argument[0] != "-")
    ckpt = _text(values, "ckpt")
    several = bool({"-m", "--multirun"} & set(arguments))
    if ckpt in ("", "null") or "hydra.run.dir" in values or (several and "," in ckpt):
        return arguments
    if ckpt == "auto" or names_published(ckpt):
        begun = Path(_text(values, "run_dir")).expanduser() / CHECKPOINTS / LAST
        return [*_missing_choices(begun, values), *arguments] if "run_dir" in values and begun.is_file() else arguments
    path = find_checkpoint(ckpt, RUNS).resolve()
    rest = [argument for argument in arguments if not argument.startswith("ckpt=")]
    in_place = path.name == LAST and path.parent.name == CHECKPOINTS and "run_dir" not in values and not several
    place = [override("run_dir", str(path.parent.parent))] if in_place else []
    return [*_missing_choices(path, values), *rest, override("ckpt", str(path)), *place]


def _text(values: Mapping[str, str], key: str) -> str:
    """What an argument says, without its quotes; empty without it."""
    said = values.get(key, "")
    (parsed,) = parse([f"{key}={said}"])
    value = None if parsed.is_sweep_override() else parsed.value()
    return said if value is None else str(value)


def _missing_choices(path: Path, given: Mapping[str, str]) -> list[str]:
    """The groups that the run has chosen and the command line says nothing of."""
    from mdm_lightning.checkpoint.run import describe  # with torch, now that the checkpoint is found

    run = describe(path)
    chosen = by_group(safe_choices(run.path, run.choices))
    return [choice for group, choice in chosen.items() if group not in given]


def safe_choices(run: Path, stored: Sequence[str] | None) -> list[str]:
    """The choices of groups that a run has stored, which may be anybody's: names of files of our configuration and
    nothing else.

    Raises:
        UserError: something else.
    """
    choices = [str(choice) for choice in stored or ()]
    for choice in choices:
        if not CHOICE.fullmatch(choice):
            raise UserError(f"{run} names {choice!r}, which is no choice of a configuration group")
    return choices


def by_group(choices: Sequence[str]) -> dict[str, str]:
    """The last choice of each group."""
    return {choice.partition("=")[0]: choice for choice in choices}
