"""From `ckpt=`, `data=` and `trainer=` to the subject of an evaluation: a denoiser on its device, with its data.

Its origin is a run, a published model, or the distribution that `data=` gives.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.checkpoint.find import RUNS, find_checkpoint, names_published
from mdm_lightning.checkpoint.load import LONGEST, Oracle, Origin, exact_denoiser
from mdm_lightning.checkpoint.published import PublishedCheckpoint, open_published
from mdm_lightning.checkpoint.run import Run, describe, read_run
from mdm_lightning.checkpoint.stored_config import build
from mdm_lightning.commands.devices import choose_device, stored_precision
from mdm_lightning.commands.options.command_line import override
from mdm_lightning.commands.program import typed
from mdm_lightning.data.source import PreparedData, Source
from mdm_lightning.data.tasks.base import TaskSource
from mdm_lightning.data.tasks.toy import DistributionSource
from mdm_lightning.data.tokenizer.spec import Given
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NoData, Subject
from mdm_lightning.evaluation.processes import Processes


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
        _refuse_unread(config)
        return describe(find_checkpoint(ckpt, RUNS))
    if data is None or not issubclass(get_class(data._target_), DistributionSource):
        return None
    return Oracle(instantiate(data))


def _refuse_unread(config: DictConfig) -> None:
    """Refuses what is said of a published model where ``ckpt=`` names a run, which knows all of it."""
    for name, value in config.published.items():
        if value is not None:
            raise UserError(f"published.{name}={value} would change nothing: ckpt={config.ckpt} is no published model")


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


def pin_scorer(config: DictConfig) -> list[str]:
    """Has ``scorer.ckpt=last`` mean the same run from now on, whatever becomes the newest.

    Returns:
        The override by which other processes mean it; none where the scorer is named otherwise.

    Raises:
        UserError: there is no run yet.
    """
    if OmegaConf.select(config, "scorer.ckpt") != "last":
        return []
    config.scorer.ckpt = str(find_checkpoint("last", RUNS, option="scorer.ckpt").resolve())
    return [override("scorer.ckpt", config.scorer.ckpt)]


def load_subject(
    origin: Origin, data: DictConfig | None, trainer: DictConfig, cache: Path, seed: int, processes: Processes
) -> Subject:
    """The denoiser, its tokenizer, and data to evaluate it on.

    Args:
        data: what ``data=`` chose; None for the data that the run was trained on.

    Raises:
        UserError: the checkpoint, the data, the device and the precision do not fit together.
    """
    if isinstance(origin, Oracle):
        return distribution_subject(origin, trainer, cache, seed, processes)
    return checkpoint_subject(origin, data, trainer, cache, seed, processes)


def distribution_subject(oracle: Oracle, trainer: DictConfig, cache: Path, seed: int, processes: Processes) -> Subject:
    """The exact denoiser of a distribution, in float64 whatever the precision, and sequences drawn from the
    distribution."""
    source, device = oracle.source, choose_device(trainer)
    distribution = source.distribution
    return Subject(
        denoiser=exact_denoiser(source).to(device).eval(),
        tokenizer=source.tokenizer,
        length=source.length,
        prepare=lambda: source.prepare(None, cache),
        distribution=distribution,
        name=oracle.name,
        fingerprint=oracle.fingerprint,
        device=device,
        seed=seed,
        processes=processes,
    )


def checkpoint_subject(
    origin: Run | PublishedCheckpoint,
    data: DictConfig | None,
    trainer: DictConfig,
    cache: Path,
    seed: int,
    processes: Processes,
) -> Subject:
    """A run's averaged weights or a published model, its tokenizer, and data to evaluate it on, if there are any."""
    device = choose_device(trainer)
    if isinstance(origin, Run):
        tokenizer = Tokenizer.from_state(origin.tokenizer_state)
        precision = stored_precision(trainer), stored_precision(trainer, frozen=True)
        denoiser = read_run(origin, tokenizer, device, *precision)
        if data is None:
            source = build(origin.config["data"], Source, origin.path)
        else:
            source = _source(data, origin.config["model"])
    else:
        tokenizer = origin.tokenizer
        dtype = stored_precision(trainer, frozen=True)
        denoiser = origin.model.read(origin.arguments, device, dtype)
        source = None if data is None else _source(data, {"length": min(denoiser.length, LONGEST)})
    own = source.tokenizer if isinstance(source, TaskSource | DistributionSource) else None
    if source is not None and own is not None and own.fingerprint != tokenizer.fingerprint:
        raise UserError(f"data={source.name} has another tokenizer than {origin.name}: they do not go together")
    length = min(denoiser.length, LONGEST) if source is None else source.length
    if length > denoiser.length:
        raise UserError(f"data.length={length} is beyond the model's length {denoiser.length}: set data.length=")

    def prepare() -> PreparedData:
        if source is None:
            raise NoData(f"what {origin.name} was trained on is not known: choose data=")
        return source.prepare(Given(tokenizer) if own is None else None, cache)

    return Subject(
        denoiser=denoiser.eval(),
        tokenizer=own or tokenizer,
        length=length,
        prepare=prepare,
        task=source if isinstance(source, TaskSource) else None,
        prompted=source is not None and source.prompted,
        distribution=source.distribution if isinstance(source, DistributionSource) else None,
        name=origin.name,
        fingerprint=origin.fingerprint,
        device=device,
        seed=seed,
        processes=processes,
    )


def _source(data: DictConfig, model: Mapping[str, Any]) -> Source:
    # Configurations of data refer to the model's length.
    plain = OmegaConf.to_container(data, resolve=False)
    return instantiate(OmegaConf.create({"model": model, "data": plain}).data)
