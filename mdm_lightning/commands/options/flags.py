"""The flags of a command line, which say where Hydra looks for configurations: ``--config-dir``, ``--config-name``."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hydra.conf import HydraConf

from mdm_lightning.errors import UserError


@dataclass(frozen=True)
class Flags:
    """What the flags of a command line say.

    Attributes:
        conf: folder of the configuration.
        name: of its primary file.
        folder: a further folder of configurations; None without one.
        show: Hydra is asked to show something instead of running anything.
    """

    conf: Path
    name: str
    folder: Path | None = None
    show: bool = False


def read_flags(arguments: Sequence[str], conf: Path, name: str) -> tuple[Flags, list[str]]:
    """The flags of a command line, and its other arguments.

    Args:
        arguments: the command line without the program.
        conf: folder of the configuration, where no flag names another.
        name: of its primary file, where no flag names another.

    Raises:
        UserError: there is no such flag, or no such folder.
    """
    parser = _Parser(add_help=False)
    parser.add_argument("--config-path", "-cp", type=Path, default=conf)
    parser.add_argument("--config-name", "-cn", default=name)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    for showing in (["--cfg", "-c"], ["--info", "-i"], ["--package", "-p"], ["--experimental-rerun"]):
        parser.add_argument(*showing, dest="show", nargs="?", const="")
    for showing in ("--resolve", "--version"):
        parser.add_argument(showing, dest="show", action="store_const", const="")
    found, overrides = parser.parse_known_args(arguments)
    if unknown := next((argument for argument in overrides if argument.startswith("-")), None):
        raise UserError(f"there is no flag {unknown}")
    folder: Path | None = found.config_dir and found.config_dir.absolute()
    if folder is not None and not folder.is_dir():
        raise UserError(f"--config-dir {found.config_dir} is no folder")
    return Flags(found.config_path, found.config_name, folder, found.show is not None), overrides


def flags_first(arguments: Sequence[str], conf: Path, name: str) -> list[str]:
    """A command line as Hydra reads it: it takes no flag between options.

    Raises:
        UserError: as ``read_flags``.
    """
    _, overrides = read_flags(arguments, conf, name)
    return [*(argument for argument in arguments if argument not in overrides), *overrides]


def same_files(hydra: HydraConf) -> list[str]:
    """The flags by which another process reads the configuration files that Hydra has read in this one."""
    paths = {source.provider: source.path for source in hydra.runtime.config_sources if source.schema == "file"}
    folders = {"--config-path": "main", "--config-dir": "command-line"}
    flags = [f"{flag}={paths[provider]}" for flag, provider in folders.items() if provider in paths]
    return [*flags, f"--config-name={hydra.job.config_name}"]


def same_command(hydra: HydraConf, *pinned: str) -> list[str]:
    """The arguments by which another process composes the configuration that Hydra has composed in this one.

    Args:
        pinned: overrides to use instead of whatever was typed of the same options.
    """
    keys = {override.partition("=")[0] for override in pinned}
    said = [*hydra.overrides.hydra, *hydra.overrides.task]
    return [*same_files(hydra), *(override for override in said if override.partition("=")[0] not in keys), *pinned]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as for everything else that is typed."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)
