"""A sweep's command line, checked before anything that takes time is imported."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from mdm_lightning.commands.options import settings
from mdm_lightning.commands.options.command_line import first_values, parse
from mdm_lightning.commands.options.idle import refuse_idle
from mdm_lightning.commands.options.unread import Inspection
from mdm_lightning.errors import UserError


def check_ahead(typed: Sequence[str], conf: Path, name: str) -> None:
    """Checks what a sweep's command line asks for, with the first value of each axis, as far as that is known before
    anything that takes time is imported.

    Args:
        typed: the command line; nothing is checked of one that asks Hydra for something else.
        conf: folder of the configuration.
        name: of its primary file.

    Raises:
        UserError: a setting has a name that nobody reads or a value that it cannot have, or nothing is at a path.
    """
    overrides = [argument for argument in typed if argument not in ("-m", "--multirun")]
    reported = [Path(argument.removeprefix("report=")) for argument in overrides if argument.startswith("report=")]
    for folder in reported:
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; give the folder that sweep.py printed")
    if reported or any(argument.startswith("-") for argument in overrides):
        return
    parsed = parse(overrides)
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose(name, first_values(parsed), return_hydra_config=True)
    inspection = Inspection(config, overrides)
    inspection.node(config, settings.command(config), "")
    inspection.paths()
    inspection.advice()
    axes = {override.key_or_group for override in parsed if override.is_sweep_override()}
    refuse_idle(config, overrides, swept=axes.intersection(config.hydra.runtime.choices))
