"""Composing the configurations of a multirun's jobs without reading all files anew for each.

Hydra reads and merges some twenty files for every job, twice: half a second, longer than a small cell takes. Here it
does so once per choice of groups; a job's plain values (`schedule.alpha=0.3`) are then set in a copy of the result.
"""

from copy import deepcopy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class QuickComposition(Callback):
    """Hydra callback that gives a multirun the loader below, whatever its sweeper and launcher."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        hydra.config_loader = ValueOverrides(hydra.config_loader)


class ValueOverrides(ConfigLoaderImpl):
    """A config loader that composes once per choice of groups."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        super().__init__(loader.get_search_path())
        self._composed: dict[tuple[str | None, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        overrides = OverridesParser.create().parse_overrides(sweep_overrides)
        values = [override for override in overrides if self._is_value(override)]
        choices = tuple(override.input_line for override in overrides if override not in values)
        if choices not in self._composed:
            self._composed[choices] = super().load_sweep_config(master_config, [line for line in choices if line])
        config = deepcopy(self._composed[choices])
        self._apply_overrides_to_config(values, config)
        of_the_task = [override for override in overrides if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in of_the_task]
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=of_the_task, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether an override changes a value and cannot change what is composed."""
        chooses = self.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
        return override.type == OverrideType.CHANGE and not chooses and not override.is_hydra_override()
