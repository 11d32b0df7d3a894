"""What to say of a command line of which Hydra makes no configuration, of references to nothing, and of what
constructors refuse."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mdm_lightning.arguments import BadArgument
from mdm_lightning.commands.options.command_line import ARGUMENT, override, parses
from mdm_lightning.commands.options.nearest import suggestion
from mdm_lightning.errors import UserError


def explain_composition(error: Exception, arguments: Sequence[str], conf: Path, name: str) -> Exception:
    """What to say of a command line that Hydra could not make a configuration of; other errors as they are.

    Args:
        error: what Hydra, or OmegaConf below it, raised.
        arguments: the command line.
        conf: folder of the configuration.
        name: of its primary file.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _no_choice(error, arguments, conf)
    words = " ".join(str(error).split())
    if isinstance(error, OverrideParseException | HydraException) and (unread := _unread(arguments)):
        return unread
    if several := re.search(r"(?:Sweep parameters|Ambiguous value for argument) '([^=']*)=(.*?)' ", words):
        key, value = several.groups()
        exactly = _typed(key, value)
        return UserError(
            f"{key}= has several values, which only sweep.py tries; a list is {key}=[{value}], a text with commas is "
            f"{exactly}"
        )
    if isinstance(error, ConfigCompositionException):
        for pattern, say in (
            (r"Could not override '(?P<key>[^']*)'", _no_option),
            (r"Could not delete from config. '(?P<key>[^']*)'", _no_option),
            (r"Could not delete '(?P<key>[^']*)'", _no_option),
        ):
            if found := re.search(pattern, words):
                return say(found["key"], arguments, conf, name)
        if found := re.search(r"\w+@(\w+)\.(\w+) appears more than once in the final defaults list", words):
            return UserError(f"{found.group(1)}= names {found.group(2)} twice: once is enough")
        if found := re.search(r"An item is already at '([^']*)'", words):
            return UserError(f"{found.group(1)} is there already: leave out the +, as in {found.group(1)}=VALUE")
    if found := re.search(r"Interpolation key '([\w.]+)' not found", words):
        key = found.group(1)
        return UserError(f"there is no option {key} that ${{{key}}} could mean; an environment variable is written "
                         f"${{oc.env:{key}}}")  # fmt: skip
    return error


def _typed(key: str, text: str) -> str:
    """A text as a shell wants it typed."""
    return shlex.quote(override(key, text) if '"' in text else f'{key}="{text}"')


def _unread(arguments: Sequence[str]) -> UserError | None:
    """The first argument that is no override, and how to type it."""
    for argument in arguments:
        if argument.startswith("-") or parses(argument):
            continue
        found = ARGUMENT.fullmatch(argument)
        if found is None:
            return UserError(f"{argument!r} is no option: write KEY=VALUE, as in seed=1")
        exactly = _typed(found["key"], found["value"])
        return UserError(f"{argument} cannot be read; a text with such characters is typed {exactly}")
    return None


def _no_choice(error: MissingConfigException, arguments: Sequence[str], conf: Path) -> UserError:
    missing = str(error.missing_cfg_file)
    group, _, choice = missing.rpartition("/")
    if not group:
        return UserError(f"there is no configuration {missing}")
    options = sorted(error.options or (file.stem for file in (conf / group).glob("*.yaml")))
    typed = next((a for a in arguments if re.match(rf"\+{{0,2}}{re.escape(group)}(@[\w.]+)?=", a)), f"{group}={choice}")
    return UserError(f"{typed}: {group} has no such choice{suggestion(choice, options)} ({', '.join(options)})")


def _no_option(key: str, arguments: Sequence[str], conf: Path, name: str) -> UserError:
    deleted = [argument.removeprefix("~").partition("=")[0] for argument in arguments if argument.startswith("~")]
    if gone := next((part for part in deleted if key.startswith(f"{part}.")), None):
        return UserError(f"{key} is an option of {gone}, which ~{gone} leaves out: leave out one of them")
    return UserError(f"there is no option {key}{suggestion(key, _known(arguments, conf, name))}")


def _known(arguments: Sequence[str], conf: Path, name: str) -> list[str]:
    """All options, of the configuration that the choices of groups on the command line make, if they do."""
    choices = [a for a in arguments if "=" in a and "." not in a.partition("=")[0] and _is_group(a, conf)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            config = compose(name, choices)
        except (HydraException, OmegaConfBaseException):
            config = compose(name)
    groups = [folder.name for folder in conf.iterdir() if folder.is_dir()]
    return [*groups, *_keys(config, "")]


def _is_group(argument: str, conf: Path) -> bool:
    key, _, choice = argument.partition("=")
    return (conf / key.partition("@")[0] / f"{choice}.yaml").is_file()


def _keys(node: DictConfig, path: str) -> Iterator[str]:
    for key in map(str, node):
        full = f"{path}.{key}" if path else key
        yield full
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            value = node[key]
            if isinstance(value, DictConfig):
                yield from _keys(value, full)


def dangling(error: Exception, key: str, written: str, typed: bool, left_out: Callable[[str], bool]) -> UserError:
    """What to say of a value that refers to nothing.

    Args:
        error: what resolving it raised.
        key: the option whose value it is.
        written: the value as it was written.
        typed: whether it was on the command line, rather than in a file.
        left_out: whether an option was deleted on the command line.
    """
    if unset := re.search(r"Environment variable '([^']+)' not found", str(error)):
        return UserError(f"{key}: the environment variable {unset.group(1)} is not set")
    missing = re.search(r"Interpolation key '([\w.]+)' not found", str(error))
    if missing is None:
        return UserError(f"{key}={written} cannot be resolved: {str(error).splitlines()[0]}")
    wanted = missing.group(1)
    if left_out(wanted):
        return UserError(f"{wanted} cannot be left out: {key} needs it")
    if not typed:
        return UserError(
            f"{key} is {wanted} where you do not say otherwise, and nothing that is chosen has that option"
        )
    return UserError(
        f"{key}: there is no option {wanted} that ${{{wanted}}} could mean; an environment variable is written "
        f"${{oc.env:{wanted}}}"
    )


def blame(error: Exception, path: str, name: Callable[[str], str]) -> Exception:
    """What a constructor says of its arguments, under the name of the option that was typed.

    Args:
        error: what building something raised.
        path: where it stands in the configuration.
        name: the option that a value comes from.
    """
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        inner = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else path
        return blame(error.__cause__, inner, name) if isinstance(error.__cause__, Exception) else error
    if isinstance(error, BadArgument):
        key = name(f"{path}.{error.name}" if path else error.name)
        return UserError(f"{key} must be {error.wanted}, got {_shown(error.value)}")
    if isinstance(error, ValueError):
        return UserError(f"{error} (in the configuration: {path})")
    return error


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
