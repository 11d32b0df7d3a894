"""Where the denoiser of an evaluation comes from: a run, a published model, or the distribution that `data=` gives."""

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from mdm_lightning.checkpoint.find import RUNS, find_checkpoint, names_published
from mdm_lightning.checkpoint.load import Oracle, Origin
from mdm_lightning.checkpoint.published import open_published
from mdm_lightning.checkpoint.run import Run, describe
from mdm_lightning.commands.options.command_line import override
from mdm_lightning.commands.program import typed
from mdm_lightning.data.tasks.toy import DistributionSource
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.errors import UserError


def find_origin(config: DictConfig) -> Origin | None:
    """Where the denoiser comes from: what ``ckpt=`` names, or without it the distribution of ``data=``; None without
    either.

    Args:
        config: of a command; read are ``ckpt``, ``data``, and for published models ``published`` and ``tokenizer``,
            which counts if they bring none along.

    Raises:
        UserError: there is no such checkpoint, or no such distribution.
    """
    ckpt, data = config.ckpt, config.get("data")
    if ckpt is not None:
        if names_published(ckpt):
            return open_published(ckpt, config.get("tokenizer"), Unstated(**config.published))
        return describe(find_checkpoint(ckpt, RUNS))
    if data is None or not issubclass(get_class(data._target_), DistributionSource):
        return None
    return Oracle(instantiate(data))


def needs_checkpoint(command: str) -> UserError:
    """What to say where a command (evaluate, sweep) has no origin."""
    return UserError(
        f"{typed(command)} needs a checkpoint: ckpt=last, ckpt=RUN_FOLDER, ckpt=FILE.ckpt, or a published model's "
        "folder or name on the hub (experiment=toy does without)"
    )


def describe_origin(origin: Origin) -> str:
    """In a few words, for the log."""
    return f"{origin.name} at step {origin.step:,}" if isinstance(origin, Run) else origin.name


def choose_origin(origin: Origin) -> str:
    """The override by which other processes mean the same origin."""
    return "ckpt=null" if isinstance(origin, Oracle) else override("ckpt", origin.name)
