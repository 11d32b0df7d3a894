"""The whole configuration is looked at before anything is done: names that nobody reads, values of the wrong type, and
numbers out of range are refused, each under the name of the option that was typed.

The schemas are the constructors of what will be built (their annotations, strictly: 10.5 is no whole number, and
neither is true), and ``settings.py`` for what belongs to no object. Constructors are looked at last: to import them
takes seconds, in which most of what is mistyped could have been answered.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from mdm_lightning.annotations import TARGET, arguments, fits, is_object, located, needed, words
from mdm_lightning.arguments import BadArgument
from mdm_lightning.commands.options import settings
from mdm_lightning.commands.options.explanations import blame, dangling
from mdm_lightning.commands.options.idle import REFERENCE, refuse_idle
from mdm_lightning.commands.options.nearest import suggestion
from mdm_lightning.errors import UserError

# Arguments that the commands give themselves, beside those of the configuration.
_GIVEN = {"vocab_size"}

# What brings Lightning along, which takes longer to import than all else.
_OF_LIGHTNING = (
    "lightning.",
    "mdm_lightning.training.dashboards.",
    "mdm_lightning.training.loggers.",
    "mdm_lightning.training.schedule_watch.",
    "mdm_lightning.training.strategy.",
)


def check_options(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Checks a composed configuration, and returns it.

    Args:
        config: of a command; texts that were read as numbers become what was typed.
        overrides: as typed.

    Raises:
        UserError: an option has a name that nobody reads, or a value that it cannot have.
    """
    schema = settings.command(config)
    inspection = Inspection(config, overrides)
    inspection.node(config, schema, "")
    if schema is settings.TrainCommand:
        inspection.refuse_trainer(settings.SET_ELSEWHERE, "is not for you to set: see {}=")
    else:
        unread = dict.fromkeys(map(str, config.trainer), ", ".join(settings.READ_OF_TRAINER))
        for name in settings.READ_OF_TRAINER:
            unread.pop(name, None)
        inspection.refuse_trainer(unread, "is for training; what is read of the trainer here: {}")
    inspection.paths()
    if schema is not settings.TrainCommand or config.ckpt is None:  # else a run's own settings may still come in
        inspection.advice()
    if schema is settings.MeasuringCommand:  # of a sweep, whose cells differ in what they read: ahead.py
        refuse_idle(config, overrides)
    elif schema is settings.TrainCommand and config.ckpt is None:
        refuse_idle(config, overrides, direct=("sampler",))
    settings.parse_precision(config.trainer.precision)  # says more of it than Lightning's annotations
    inspection.objects()
    if schema is settings.TrainCommand:
        inspection.ranges(settings.TrainerLimits, config.trainer, "trainer")
    if schema is not settings.TrainCommand or config.ckpt is None:  # else another's settings may still come in
        check_objects(config)
    return config


def check_objects(config: DictConfig) -> None:
    """Checks the numbers in a configuration, and whether they go together, by building what is cheap to build.

    Raises:
        UserError: a constructor refuses its arguments.
    """
    # Of a copy: building resolves the references among nodes, for good.
    Inspection(config, ()).build(deepcopy(config), "")


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A walk through a configuration.

    Attributes:
        root: the whole configuration.
        overrides: as typed.
        waiting: objects to check, with their paths, once all that is known without importing them is checked.
    """

    root: DictConfig
    overrides: Sequence[str]
    waiting: deque[tuple[DictConfig, str]] = dataclasses.field(default_factory=deque)

    def node(self, node: DictConfig, schema: type[Any], path: str) -> None:
        """Checks a node whose settings belong to no object."""
        if schema is settings.Evaluating and "lm_eval" in node:
            schema = settings.Benchmarking
        hints = get_type_hints(schema)
        for key in map(str, node):
            if key in hints or (path == "" and key == "hydra"):
                continue
            value = self.value(node, key, path)
            if settings.holds_objects(schema) and is_object(value):
                self.wait(value, _join(path, key))
            elif not (settings.holds_objects(schema) and isinstance(value, DictConfig) and not self.typed_below(key)):
                known = {*hints, *map(str, node)} - {key}
                raise self.unknown(_join(path, key), [_join(path, name) for name in known])
        for setting in dataclasses.fields(schema):
            if setting.name in node:
                self.setting(node, setting.name, hints[setting.name], path)
            elif setting.default is dataclasses.MISSING and setting.default_factory is dataclasses.MISSING:
                raise UserError(f"{_join(path, setting.name)} cannot be left out")
        self.ranges(schema, node, path)

    def ranges(self, schema: type[Any], node: DictConfig, path: str) -> None:
        """Numbers out of range, of those settings that a schema names."""
        try:
            schema(**{name: node[name] for name in settings.names(schema) if name in node})
        except BadArgument as error:
            raise blame(error, path, self.name) from error

    def refuse_trainer(self, unread: Mapping[str, str], words: str) -> None:
        """Refuses arguments of the trainer that were typed and would not be what they seem."""
        for name, instead in unread.items():
            if self.typed(f"trainer.{name}") is not None:
                raise UserError(f"trainer.{name} {words.format(instead)}")

    def paths(self) -> None:
        """Refuses paths at which nothing is; of what is built, those of our own classes."""
        for key, refuse in settings.REFUSALS.items():
            path, _, name = key.rpartition(".")
            node = OmegaConf.select(self.root, path) if path else self.root
            if not isinstance(node, DictConfig) or name not in node:
                continue
            own = not is_object(node) or str(node[TARGET]).startswith("mdm_lightning.")
            if own and isinstance(text := self.value(node, name, path), str):
                refuse(text)

    def advice(self) -> None:
        """Refuses parts that are to be as advised where nothing says by which advice."""
        for name in ("sampler", "schedule"):
            node = OmegaConf.select(self.root, name)
            if "path" in node and _raw(node, "path") == "${advice}" and self.value(node, "path", name) is None:
                raise UserError(f"{name}=advised needs advice=FILE, an advice.json that evaluation=advise has written")

    def wait(self, node: DictConfig, path: str) -> None:
        """Notes an object to check: those that bring Lightning along after all others."""
        if str(_raw(node, TARGET)).startswith(_OF_LIGHTNING):
            self.waiting.append((node, path))
        else:
            self.waiting.appendleft((node, path))

    def objects(self) -> None:
        """Checks the objects that are waiting, and those that are found in them."""
        while self.waiting:
            self.object(*self.waiting.popleft())

    def object(self, node: DictConfig, path: str) -> None:
        """Checks what will be built: names and types of its arguments."""
        target = self.value(node, TARGET, path)
        try:
            hints, open_ended = arguments(located(str(target)))
        except Exception as error:  # whatever importing it raises
            reason = " ".join(str(error).split())
            raise UserError(f"{_join(path, TARGET)}={target} cannot be imported: {reason}") from error
        for key in map(str, node):
            if key.startswith("_"):
                continue
            if key not in hints and not open_ended:
                raise self.unknown(_join(path, key), [_join(path, name) for name in hints if name not in _GIVEN])
            self.setting(node, key, hints.get(key, Any), path)
        if str(target).startswith("mdm_lightning."):
            for name in needed(located(str(target))):
                if name not in node and name not in _GIVEN:
                    raise UserError(f"{_join(path, name)} cannot be left out")

    def setting(self, node: DictConfig, name: str, hint: Any, path: str) -> None:
        """Checks one value, and what is in it."""
        key = _join(path, name)
        if OmegaConf.is_missing(node, name):
            raise UserError(f"{key} has no value: give it one")
        if OmegaConf.is_interpolation(node, name) and self.known_later(str(_raw(node, name))):
            return
        value = self.value(node, name, path)
        schema = next((kind for kind in (hint, *get_args(hint)) if settings.is_schema(kind)), None)
        if schema is not None and isinstance(value, DictConfig):
            self.node(value, schema, key)
            return
        if not fits(hint, value):
            text = self.typed(key) if isinstance(value, bool | int | float) and fits(hint, "") else None
            if text is None:
                shown = OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
                shown = "null" if shown is None else str(shown).lower() if isinstance(shown, bool) else shown
                raise UserError(f"{self.name(key)} must be {words(hint)}, got {shown}")
            OmegaConf.update(self.root, self.name(key), text)
        if OmegaConf.is_interpolation(node, name):
            return  # which is looked at where it stands
        if not isinstance(value, DictConfig):
            return
        if is_object(value):
            self.wait(value, key)
        else:
            for part in map(str, value):
                if is_object(self.value(value, part, key)):
                    self.wait(value[part], _join(key, part))

    def build(self, node: DictConfig, path: str) -> None:
        """Builds what is cheap to build, so that constructors say what they have against their arguments."""
        for key in map(str, node):
            if (path == "" and key == "hydra") or OmegaConf.is_interpolation(node, key):
                continue
            value = node[key]
            if is_object(value) and dataclasses.is_dataclass(located(str(value[TARGET]))):
                try:
                    instantiate(value)
                except InstantiationException as error:
                    blamed = blame(error, _join(path, key), self.name)
                    if blamed is error:  # which must not become its own cause
                        raise
                    raise blamed from error
            elif isinstance(value, DictConfig):
                self.build(value, _join(path, key))

    def known_later(self, raw: str) -> bool:
        """Whether a value refers to what a job knows of itself, or to the model of a checkpoint still to open."""
        return "${hydra:" in raw or ("${model." in raw and "model" not in self.root)

    def value(self, node: DictConfig, name: str, path: str) -> Any:
        """A value, whatever it refers to.

        Raises:
            UserError: it refers to nothing.
        """
        try:
            return node[name]
        except (InterpolationKeyError, InterpolationResolutionError) as error:
            left_out = lambda option: self.typed(option, "~") is not None  # noqa: E731
            key = _join(path, name)
            typed = any(override.partition("=")[0].lstrip("+") == key for override in self.overrides)
            raise dangling(error, key, str(_raw(node, name)), typed, left_out) from error
        except OmegaConfBaseException as error:
            raise UserError(f"{_join(path, name)} cannot be read: {' '.join(str(error.msg).split())}") from error

    def name(self, key: str) -> str:
        """The option that a value comes from, where it, or what it is part of, only refers to another."""
        known = ""
        for part in key.split("."):
            node = OmegaConf.select(self.root, known) if known else self.root
            known = _join(known, part)
            if isinstance(node, DictConfig) and part in node and OmegaConf.is_interpolation(node, part):
                reference = REFERENCE.fullmatch(str(_raw(node, part)))
                known = known if reference is None else self.name(reference.group(1))
        return known

    def typed(self, key: str, sign: str = "+") -> str | None:
        """What was typed as the value of an option; None if it was not."""
        key = self.name(key)
        for override in reversed(self.overrides):
            name, _, text = override.partition("=")
            if name.lstrip(sign) == key and (sign == "+" or name != key):
                return text
        return None

    def typed_below(self, name: str) -> bool:
        """Whether something was typed that belongs to an evaluation of that name."""
        return any(override.lstrip("+").startswith(f"evaluation.{name}.") for override in self.overrides)

    def unknown(self, key: str, known: Iterable[str]) -> UserError:
        return UserError(f"nobody reads an option {key}{suggestion(key, known)}")


def _raw(node: DictConfig, name: str) -> Any:
    """A value as it was written, without resolving what it refers to."""
    plain: Any = OmegaConf.to_container(node, resolve=False)
    return plain[name]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
