"""Going on with a run: with the settings that it has, and what the command line says on top of them.

A checkpoint holds the resolved configuration and the groups that were chosen. The configuration is what counts,
whatever the defaults have become since. The groups say what another choice changes: what composing with it changes.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hydra import compose
from hydra.conf import HydraConf
from hydra.core.override_parser.types import Override
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.checkpoint.run import INCIDENTAL, Run
from mdm_lightning.checkpoint.stored_config import check_run
from mdm_lightning.commands.options.command_line import parse
from mdm_lightning.commands.options.resumed_line import CHOICE, by_group, safe_choices
from mdm_lightning.data.tasks.base import TaskSource
from mdm_lightning.data.tasks.toy import DistributionSource
from mdm_lightning.data.tokenizer.spec import FromCorpus
from mdm_lightning.denoiser.llama import FORMER_HEAD
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

Key = tuple[str, ...]
StoredSettings = dict[str, Any]

# Of a command rather than of a run; callbacks because they may be anybody's code.
OF_THE_COMMAND: tuple[Key, ...] = (("ckpt",), ("run_dir",), ("cache_dir",), ("debug",), ("training", "callbacks"))

# Keys of data that a tokenizer made from it does not depend on.
_AFTER_THE_TOKENIZER = {"length", "wrap"}


def chosen_groups(hydra: HydraConf, run: Run | None = None) -> list[str]:
    """The command line's choices of groups, upon those of the run that goes on; for checkpoints to remember."""
    said = [override.input_line for override in parse(hydra.overrides.task) if _is_choice(override, hydra)]
    before = [] if run is None else safe_choices(run.path, run.choices)
    return list((by_group(before) | by_group([line for line in said if line and CHOICE.fullmatch(line)])).values())


def resumed_config(today: DictConfig, run: Run, hydra: HydraConf) -> DictConfig:
    """The configuration with which a run goes on.

    Args:
        today: as Hydra composed it for this command.

    Raises:
        UserError: something is to change that cannot, or the checkpoint would have something foreign built.
    """
    name, ours = hydra.job.config_name or "train", safe_choices(run.path, run.choices)
    searched = list(hydra.overrides.hydra)  # where to find the groups' files
    own, chosen = _compose(name, [*searched, *ours]), _compose(name, [*searched, *chosen_groups(hydra, run)])
    now: StoredSettings = OmegaConf.to_container(today, resolve=False)  # pyright: ignore[reportAssignmentType]
    stored: StoredSettings = deepcopy(run.config)
    if run.choices is None:  # a run of before they were kept: which logger it had is not known
        own["logger"] = chosen["logger"] = now["logger"]
        stored["logger"] = _resolved(today)["logger"]
    _set(stored, ("training", "callbacks"), {})  # those of the command line are taken
    check_run(_beside(stored, own), run.path)
    settings = _linked(stored, own)
    _apply_choices(settings, own, chosen)
    said = [tuple(o.key_or_group.split(".")) for o in parse(hydra.overrides.task) if not _is_choice(o, hydra)]
    for key in (*said, *OF_THE_COMMAND):
        _set(settings, key, deepcopy(_get(now, key)))
    config = OmegaConf.create(settings)
    OmegaConf.set_struct(config, True)
    return config


def changes(run: Run, config: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from the run's, but for those of the command: by key, what they were and are."""
    raw, resolved, before = _flat(OmegaConf.to_container(config)), _flat(_resolved(config)), _flat(run.config)
    found = {}
    for key in sorted(before.keys() | resolved.keys()):
        of_the_command = any(key[: len(skip)] == skip for skip in OF_THE_COMMAND) or _names_a_place(raw.get(key))
        if not of_the_command and before.get(key) != resolved.get(key):
            found[".".join(key)] = (before.get(key), resolved.get(key))
    return found


def refuse_changes(run: Run, config: DictConfig) -> None:
    """Refuses, before anything is prepared, to change what the weights of a run depend on.

    Raises:
        UserError: naming what differs.
    """
    changed = changes(run, config)

    def listed(group: str, keys: Callable[[str], bool] = lambda key: True) -> str:
        found = {key: pair for key, pair in changed.items() if key.partition(".")[0] == group}
        kind = f"{group}._target_"
        found = {kind: found[kind]} if kind in found else found
        return ", ".join(f"{key} is {a} there, {b} here" for key, (a, b) in found.items() if keys(key.split(".")[1]))

    different = listed("model", lambda key: key not in INCIDENTAL) or listed("adapter")
    if different:
        raise UserError(f"{run.path} is of another architecture: {different}; leave that out, or train anew")
    if run.base is None and (different := listed("tokenizer")):
        raise UserError(f"{run.path} was trained with another tokenizer: {different}; leave that out, or train anew")
    different = listed("data", lambda key: key not in _AFTER_THE_TOKENIZER)
    if different and run.base is None and issubclass(get_class(config.tokenizer._target_), FromCorpus):
        raise UserError(
            f"the tokenizer of {run.path} was made from its data: {different}; leave that out, or, to fine-tune on "
            "other data, export the run and give ckpt=FOLDER"
        )
    source = instantiate(config.data)
    if isinstance(source, TaskSource | DistributionSource) and source.tokenizer.fingerprint != run.tokenizer:
        raise UserError(f"{run.path} was trained with another tokenizer than {source.name} has: leave data= out")
    sharded, was_sharded = (OmegaConf.is_dict(side.trainer.strategy) for side in (config, OmegaConf.create(run.config)))
    if sharded and not was_sharded:
        raise UserError(
            f"{run.path} was not sharded, and the state of its optimizer cannot be now: go on without trainer=fsdp"
        )
    if sharded and FORMER_HEAD in run.shapes:
        raise UserError(
            f"{run.path} is of before the head was called lm_head, and such weights cannot be read sharded: go on "
            "without trainer=fsdp"
        )


def _is_choice(override: Override, hydra: HydraConf) -> bool:
    return override.get_key_element() in hydra.runtime.choices


def _compose(name: str, choices: Sequence[str]) -> StoredSettings:
    composed = compose(name, list(choices))
    return OmegaConf.to_container(composed, resolve=False)  # pyright: ignore[reportReturnType]


def _beside(stored: StoredSettings, own: StoredSettings) -> StoredSettings:
    """Stored settings without the names of what our own configuration would have built in the same place."""
    left = deepcopy(stored)
    for key, value in _flat(stored).items():
        if key[-1] in ("_target_", "_convert_") and _get(own, key) == value:
            _set(left, key, None, remove=True)
    return left


def _linked(stored: StoredSettings, own: StoredSettings) -> StoredSettings:
    """Stored settings that refer to each other as our configuration does, wherever what they refer to agrees.

    So that to change one of them changes those that follow from it.
    """
    settings, probe = deepcopy(stored), OmegaConf.create(stored)
    for key, value in _flat(own).items():
        if not isinstance(value, str) or "${" not in value or _get(stored, key) is None:
            continue
        if not _names_a_place(value):
            probe["_referred_to"] = value
            referred = probe["_referred_to"]
            referred = OmegaConf.to_container(referred) if OmegaConf.is_config(referred) else referred
            if referred != _get(stored, key):
                continue
        _set(settings, key, value)
    return settings


def _names_a_place(value: Any) -> bool:
    """Whether a setting is composed from where the command runs: ${run_dir}, ${hydra:...}, ${oc.env:...}."""
    return isinstance(value, str) and re.search(r"\$\{(run_dir\}|[\w.]+:)", value) is not None


def _apply_choices(settings: StoredSettings, own: StoredSettings, chosen: StoredSettings) -> None:
    """Changes what choosing other groups changes in a composition; a part of another class becomes that class's."""
    before, after = _flat(own), _flat(chosen)
    for key in before.keys() - after.keys():
        _set(settings, key, None, remove=True)
    for key, value in after.items():
        if before.get(key, _MISSING) != value:
            whole = key[-1] == "_target_" and len(key) > 1
            _set(settings, key[:-1] if whole else key, deepcopy(_get(chosen, key[:-1]) if whole else value))


_MISSING = object()


def _flat(settings: Any, key: Key = ()) -> dict[Key, Any]:
    """Every value by its key; lists and empty parts are values."""
    if not isinstance(settings, Mapping) or (not settings and key):
        return {key: settings}
    return {path: value for name, part in settings.items() for path, value in _flat(part, (*key, str(name))).items()}


def _get(settings: Any, key: Key) -> Any:
    for name in key:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def _set(settings: StoredSettings, key: Key, value: Any, *, remove: bool = False) -> None:
    """Sets a value, or removes it together with the parts that are empty without it."""
    parts: list[StoredSettings] = [settings]
    for name in key[:-1]:
        if not isinstance(parts[-1].get(name), dict):
            if remove:
                return
            parts[-1][name] = {}
        parts.append(parts[-1][name])
    if not remove:
        parts[-1][key[-1]] = value
        return
    parts[-1].pop(key[-1], None)
    for part, name in zip(reversed(parts[:-1]), reversed(key[:-1]), strict=True):
        if not part[name]:
            del part[name]


def _resolved(config: DictConfig) -> StoredSettings:
    return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]
