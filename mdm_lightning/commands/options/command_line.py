"""What was typed, in Hydra's grammar: texts as they stand, and values with characters that Hydra reads as its own.

And its flags, which say where Hydra looks for configurations: ``--config-dir``, ``--config-name``.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mdm_lightning.errors import UserError

TEXTS = ("prompt", "suffix", "system")
"""Options that are text, whatever it looks like, by the last part of their names."""

ARGUMENT = re.compile(r"(?P<key>[+~]{0,2}[\w.@/]+)=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""(["'])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)
_CHOICE = re.compile(r"choice\(.*\)", re.DOTALL)
_OWN_GRAMMAR = re.compile(r"""[\[{"']|\w+\(.*\)$""", re.DOTALL)


def parse(arguments: Sequence[str]) -> list[Override]:
    """The overrides of a command line.

    Raises:
        HydraException: an argument is no override.
    """
    return OverridesParser.create().parse_overrides(list(arguments))


def line(override: Override) -> str:
    """An override as it was typed."""
    assert override.input_line is not None
    return override.input_line


def first_values(overrides: Sequence[Override]) -> list[str]:
    """The command line of one cell: every override with its first value, without intervals."""
    lines = []
    for override in overrides:
        if not override.is_sweep_override():
            lines.append(line(override))
        elif override.is_discrete_sweep():
            lines += [f"{override.get_key_element()}={value}" for value in [*override.sweep_string_iterator()][:1]]
    return lines


def override(key: str, text: str) -> str:
    """The argument that gives an option a text, whatever characters are in it."""
    escaped = re.sub(r"(\\*)(\$\{)", r"\1\1\\\2", text)
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), escaped)
    return f"{key}='{escaped}'"


def readable(arguments: Sequence[str]) -> list[str]:
    """The command line in Hydra's grammar.

    ``prompt=``, ``suffix=`` and ``system=`` are texts: what follows is taken as it stands, be it ``0``, ``[a]`` or
    ``${HOME}``. Quotes around the whole are taken off, ``null`` is no text, and ``choice(a,b)`` sweeps. Of other
    options a value that Hydra cannot read is quoted, if it opens no list, mapping or quotes: a path with ``=`` in it.
    """
    return [_readable(argument) for argument in arguments]


def _readable(argument: str) -> str:
    found = ARGUMENT.fullmatch(argument)
    if found is None:
        return argument
    key, value = found["key"], found["value"]
    if key.rpartition(".")[2].lstrip("+~") in TEXTS:
        return _text(key, value)
    if _OWN_GRAMMAR.match(value) or parses(argument):
        return argument
    return override(key, value)


def _text(key: str, value: str) -> str:
    if value == "null" or _CHOICE.fullmatch(value):
        return f"{key}={value}"
    if _QUOTED.fullmatch(value):
        if "${" not in value:
            return f"{key}={value}"
        value = str(parse([f"{key}={value}"])[0].value())
    if "${" not in value:
        return override(key, value)
    # However often the configuration is resolved, this becomes what was typed, and no interpolation.
    return f"{key}={{_target_:mdm_lightning.evaluation.generation.samples.spelled,percent:'{quote(value)}'}}"


def parses(argument: str) -> bool:
    try:
        parse([argument])
    except HydraException:
        return False
    return True


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
