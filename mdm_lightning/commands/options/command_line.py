"""What was typed: texts as they stand, values with characters that Hydra reads as its own, and names mistyped."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mdm_lightning.commands.options.nearest import suggestion
from mdm_lightning.errors import UserError

TEXTS = ("prompt", "suffix", "system")
"""Options that are text, whatever it looks like, by the last part of their names."""

_ARGUMENT = re.compile(r"(?P<key>[+~]{0,2}[\w.@/]+)=(?P<value>.*)", re.DOTALL)
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
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        return argument
    key, value = found["key"], found["value"]
    if key.rpartition(".")[2].lstrip("+~") in TEXTS:
        return _text(key, value)
    if _OWN_GRAMMAR.match(value) or _parses(argument):
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


def _parses(argument: str) -> bool:
    try:
        parse([argument])
    except HydraException:
        return False
    return True


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
        return UserError(f"{key}= has several values, which only sweep.py tries; a text with commas: {exactly}")
    if isinstance(error, ConfigCompositionException):
        for pattern, say in (
            (r"Could not override '(?P<key>[^']*)'", _no_option),
            (r"Could not delete from config. '(?P<key>[^']*)'", _no_option),
            (r"Could not delete '(?P<key>[^']*)'", _no_option),
        ):
            if found := re.search(pattern, words):
                return say(found["key"], arguments, conf, name)
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
        if argument.startswith("-") or _parses(argument):
            continue
        found = _ARGUMENT.fullmatch(argument)
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
