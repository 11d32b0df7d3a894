"""Composing the configurations of many cells without reading all files anew for each.

Hydra reads and merges some twenty files per composition, which takes longer than a small cell. Here it does so once per
choice of groups; plain values (``schedule.alpha=0.3``) are then set in a copy of the result.
"""

from collections.abc import Collection, Sequence
from copy import deepcopy

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mdm_lightning.commands.options.command_line import Flags, line, parse
from mdm_lightning.errors import UserError


class Compositions:
    """What Hydra composes of command lines, with its own node: ``compositions(["schedule=linear", "seed=1"])``.

    Every composition equals Hydra's own of the same overrides: what is not surely a plain value is left to Hydra.

    Args:
        flags: say which files are read.

    Raises:
        UserError: the folder of the configuration is not given as an absolute path.
        HydraException: when called, as ``hydra.compose``.
    """

    def __init__(self, flags: Flags) -> None:
        if not flags.conf.is_absolute():
            raise UserError(f"--config-path={flags.conf}: give an absolute path")
        if flags.folder is not None:
            _search(f"file://{flags.folder}")
        self._flags = flags
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._groups: set[str] = set()

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        parsed = parse(overrides)
        values = self._values(parsed)
        config = self._whole([line(override) for override in parsed if override not in values])
        if values and not _set(config, values):
            config = self._whole(overrides)
        config.hydra.overrides.task = [line(override) for override in parsed if not override.is_hydra_override()]
        return config

    @property
    def composed(self) -> Collection[DictConfig]:
        """What Hydra has composed so far: a configuration for every choice of groups."""
        return self._composed.values()

    def _values(self, overrides: Sequence[Override]) -> list[Override]:
        """The plain values that Hydra sets last, once it has composed everything else."""
        values: list[Override] = []
        if not self._groups:
            return values
        for override in reversed(overrides):
            if override.type != OverrideType.CHANGE:
                break
            if not (override.is_hydra_override() or self._chooses(override)):
                values.insert(0, override)
        return values

    def _chooses(self, override: Override) -> bool:
        """Whether an override chooses from a group, as far as the compositions so far tell."""
        named = override.get_key_element() in self._groups or override.package is not None
        return (named or "/" in override.key_or_group) and not isinstance(override.value(), dict)

    def _whole(self, overrides: Sequence[str]) -> DictConfig:
        """A copy of Hydra's own composition."""
        known = self._composed.get(tuple(overrides))
        if known is None:
            with initialize_config_dir(str(self._flags.conf), version_base="1.3"):
                known = compose(self._flags.name, list(overrides), return_hydra_config=True)
            self._groups |= {str(group) for group in known.hydra.runtime.choices}
            self._composed[tuple(overrides)] = known
        return deepcopy(known)


def _set(config: DictConfig, values: Sequence[Override]) -> bool:
    """Sets values; whether they could be set and none of them takes the place of more than a value."""
    try:
        for override in values:
            key, value = override.key_or_group, override.value()
            if not isinstance(value, dict) and OmegaConf.is_dict(OmegaConf.select(config, key, throw_on_missing=False)):
                return False
            OmegaConf.update(config, key, value, merge=True)
    except OmegaConfBaseException:
        return False
    return True


def _search(place: str) -> None:
    """Has Hydra look in another place as well, whenever it is initialized in this process."""

    class AnotherPlace(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append("command-line", place)

    Plugins.instance().register(AnotherPlace)
