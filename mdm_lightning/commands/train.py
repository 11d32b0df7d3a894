"""`python train.py`: from a composed configuration to a trained model and a closing report."""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import lightning
import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, OmegaConf
from torch.distributed.constants import default_pg_timeout

from mdm_lightning.checkpoint.find import CHECKPOINTS, LAST
from mdm_lightning.checkpoint.run import Run, metadata
from mdm_lightning.checkpoint.run_folder import discard_beginning, refuse_occupied, save_run
from mdm_lightning.commands.announcement import announce, announce_recipe, trained_part
from mdm_lightning.commands.callbacks import build_callbacks, build_loggers
from mdm_lightning.commands.command import held
from mdm_lightning.commands.devices import (
    announce_meeting,
    first_rank,
    leads,
    local_ranks,
    ranks_exist,
    refuse_low_precision,
    stored_precision,
    world_size,
)
from mdm_lightning.commands.launch import launch_ranks
from mdm_lightning.commands.options.command_line import override, same_command
from mdm_lightning.commands.options.unread import check_objects
from mdm_lightning.commands.resume import changes, chosen_groups, refuse_changes, resumed_config
from mdm_lightning.commands.slurm import requeue
from mdm_lightning.commands.start import (
    Start,
    StartingWeights,
    adopt_sizes,
    build_published,
    find_start,
    give_memory,
)
from mdm_lightning.commands.training_report import TrainingReport, corpus_entropies, results_step
from mdm_lightning.data.source import PreparedData
from mdm_lightning.data.tokenizer.spec import FromTask, Given
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.lora import Adapter
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.diffusion.blockwise import Blockwise
from mdm_lightning.diffusion.fitting import fitted
from mdm_lightning.errors import UserError
from mdm_lightning.stopping import Preempted, Stopped
from mdm_lightning.training.checkpointing import AtomicCheckpointIO, discard_partial
from mdm_lightning.training.dashboards import GeneratedText, TensorBoard
from mdm_lightning.training.datamodule import MaskedDataModule, accumulation
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.scalars import ScalarLog
from mdm_lightning.training.throughput import Throughput

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Callback)


def train(config: DictConfig) -> float | None:
    """Trains, and returns the final validation NELBO in nats per token (None in a process that launched the ranks).

    Raises:
        UserError: something in the configuration, the data or the checkpoint does not fit, or the run folder is another
            run's.
        Preempted: stopped by a signal; the state is saved.
        Stopped: by a signal, when there was no state to save.
    """
    output = Path(HydraConfig.get().runtime.output_dir).resolve()
    if not leads():
        return _train(config, output)
    with held(output, "training", "run_dir="):
        discard_partial(output / CHECKPOINTS)
        return _train(config, output)


def _train(config: DictConfig, output: Path) -> float | None:
    hydra = HydraConfig.get()
    start = find_start(config.ckpt, output, config.tokenizer, Unstated(**config.published))
    choices = chosen_groups(hydra, start.resumed)
    if start.resumed is not None:
        config = _go_on(config, start.resumed, hydra)
    else:
        adopt_sizes(config, start, hydra.overrides.task)
        if leads():
            announce_recipe(config, hydra)
    if config.ckpt is not None:
        check_objects(config)
    if leads() and config.ckpt != "auto" and (start.resumed is not None or start.published is None):
        refuse_occupied(output, start.resumed and start.resumed.path)
    ranks = local_ranks(config.trainer)
    accumulation(config.training.global_batch_size, config.training.batch_size, world_size(config.trainer, ranks))
    refuse_low_precision(config.trainer)
    if ranks > 1 and not ranks_exist():
        launch_ranks(ranks, same_command(hydra, override("hydra.run.dir", str(output))), hydra.runtime.cwd)
        return None
    try:
        return _fit(config, start, choices, output)
    except Stopped as stop:  # before training or after it, when nothing is left to save
        last = output / CHECKPOINTS / LAST
        if stop.number == signal.SIGINT:
            raise
        if first_rank():
            requeue()
        if last.is_file():
            raise Preempted(last) from stop
        raise


def _go_on(today: DictConfig, run: Run, hydra: HydraConf) -> DictConfig:
    """The configuration with which a run goes on, which is said to be so where it is another than before.

    Raises:
        UserError: something is to change that cannot, or there is nothing left to do.
    """
    config = resumed_config(today, run, hydra)
    refuse_changes(run, config)
    if leads():
        for key, (before, now) in changes(run, config).items():
            log.info("%s: %s -> %s", key, before, now)
    steps = config.trainer.max_steps
    if run.step > steps or (run.step == steps and results_step(run.path.parent.parent) == steps):
        raise UserError(f"{run.path} has already taken its {run.step} steps: raise trainer.max_steps to train on")
    return config


def _fit(config: DictConfig, start: Start, choices: Sequence[str], output: Path) -> float:
    _quieten()
    world = world_size(config.trainer, local_ranks(config.trainer))
    accumulate = accumulation(config.training.global_batch_size, config.training.batch_size, world)
    resumed = start.resumed
    # A run that was stopped between its last step and its report has only the validation left to do.
    ended = resumed is not None and resumed.step == config.trainer.max_steps
    lightning.seed_everything(config.seed, verbose=False)
    tokenizer = instantiate(config.tokenizer)
    if start.tokenizer is not None and not isinstance(tokenizer, FromTask):
        tokenizer = Given(start.tokenizer)
    data = instantiate(config.data).prepare(tokenizer, Path(config.cache_dir))
    module = _build_module(config, data, start, choices)
    datamodule = _build_datamodule(config, data, module.denoiser)
    validation = datamodule.validation_process
    report = TrainingReport(
        output,
        data,
        averaged=config.training.ema is not None,
        trained=trained_part(module.denoiser),
        exact=module.denoiser.autoregressive,
        block_size=validation.block_size if isinstance(validation, Blockwise) else None,
    )
    trainer: Trainer = instantiate(
        config.trainer,
        max_steps=config.trainer.max_steps + ended,  # or Lightning would do nothing at all
        accumulate_grad_batches=accumulate,
        val_check_interval=config.training.validate_every * accumulate,
        callbacks=build_callbacks(
            config.training,
            config.schedule,
            config.sampler,
            data,
            output,
            seed=config.seed,
            max_steps=config.trainer.max_steps,
            progress_bar=config.trainer.enable_progress_bar,
            ended=ended,
        ),
        logger=build_loggers(config.logger, 0 if resumed is None else resumed.step),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(output),
    )
    if trainer.world_size != world:
        raise UserError(
            f"trainer.devices and trainer.num_nodes make {trainer.world_size} processes, but {world} were started"
        )
    if trainer.is_global_zero:
        save_run(output, config, data.tokenizer)
        announce(module.denoiser, data, config, accumulate, world)
    announce_meeting(world, default_pg_timeout)  # Lightning's limit, which also holds for every exchange after it
    try:
        trainer.fit(module, datamodule, ckpt_path=resumed and str(resumed.path), weights_only=True)
    except BaseException:
        if trainer.is_global_zero and trainer.global_step == 0:
            discard_beginning(output)
        raise
    return _conclude(trainer, config, report)


def _build_module(config: DictConfig, data: PreparedData, start: Start, choices: Sequence[str]) -> MaskedDiffusion:
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    resumed = start.resumed
    if resumed is not None:
        if resumed.tokenizer != data.tokenizer.fingerprint:
            raise UserError(f"{resumed.path} was trained with another tokenizer than that of data={data.name}")
        log.info("resuming from %s at step %d", resumed.path, resumed.step)
        if resumed.data != data.fingerprint:
            log.warning("the data differ from those of %s: training goes on, in another order", resumed.path)
    denoiser, fill = _build_denoiser(config, data, start)
    if data.length > denoiser.length:
        raise UserError(
            f"data.length={data.length} is beyond the model's length {denoiser.length}: "
            f"set model.length={data.length} or a smaller data.length"
        )
    return MaskedDiffusion(
        denoiser,
        instantiate(config.optimizer),
        instantiate(config.lr_schedule),
        compile=config.training.compile,
        fill=fill,
        metadata=metadata(plain, data.tokenizer, data.fingerprint, start.base, choices),
    )


def _build_denoiser(
    config: DictConfig, data: PreparedData, start: Start
) -> tuple[Denoiser, Callable[[Denoiser, torch.device], None] | None]:
    """The denoiser; where its weights are published, without memory, with what gives it both on its device."""
    adapter: Adapter = instantiate(config.adapter)
    if start.published is not None:
        if start.resumed is None:
            log.info("starting from %s", start.published.name)
        dtype = stored_precision(config.trainer, frozen=adapter.freezes)
        denoiser = build_published(start.published, config.model, adapter, dtype)
        return denoiser, StartingWeights(start.published, config.seed)
    if start.resumed is not None and start.base is not None:  # maybe too large to be made in vain by every process
        with torch.device("meta"):
            return instantiate(config.model, vocab_size=data.tokenizer.vocab_size), give_memory
    if adapter.freezes:
        raise UserError("adapter= adapts weights that are there: give a published model, as in ckpt=owner/name")
    return instantiate(config.model, vocab_size=data.tokenizer.vocab_size), None


def _build_datamodule(config: DictConfig, data: PreparedData, denoiser: Denoiser) -> MaskedDataModule:
    chosen = config.training.masking, config.training.validation_masking
    return MaskedDataModule(
        data,
        *(fitted(instantiate(masking), denoiser) for masking in chosen),
        batch_size=config.training.batch_size,
        global_batch_size=config.training.global_batch_size,
        validation_sequences=config.training.validation_sequences,
        workers=config.training.workers,
        seed=config.seed,
    )


def _callback(trainer: Trainer, kind: type[C]) -> C:
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next(callback for callback in callbacks if isinstance(callback, kind))


def _conclude(trainer: Trainer, config: DictConfig, report: TrainingReport) -> float:
    """Writes and prints the report, on the first process; returns the final validation NELBO."""
    scalars, speed, text = (
        _callback(trainer, ScalarLog),
        _callback(trainer, Throughput),
        _callback(trainer, GeneratedText),
    )
    final = scalars.latest_validation
    if trainer.is_global_zero:
        values = final | corpus_entropies(report.data)
        step = trainer.global_step
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.log_final(_hparams(config), final, step)
            else:
                logger.log_hyperparams(_hparams(config))
                logger.save()
        report.write(values, step)  # last: it says that nothing is left to do
        tokens = step * config.training.global_batch_size * report.data.length
        rate, board = median(speed.tokens_per_second or [0.0]), any(isinstance(x, TensorBoard) for x in trainer.loggers)
        print(report.text(values, step, tokens, rate, text.latest, board=board), flush=True)
    return final["val/loss"]


def _hparams(config: DictConfig) -> dict[str, Any]:
    """The settings that runs are compared by."""
    names = (
        "data.name", "model.hidden_size", "model.depth", "model.heads", "optimizer.lr", "lr_schedule.warmup_steps",
        "training.global_batch_size", "training.schedule._target_", "training.masking._target_", "training.ema",
        "trainer.max_steps", "trainer.precision", "seed",
    )  # fmt: skip
    values = {name: OmegaConf.select(config, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _quieten() -> None:
    """Leaves what a user can act on: Lightning's advice about its own defaults does not apply here."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is not resumable.*",
        "Checkpoint directory .* exists and is not empty.*",
        ".*sync_dist=True.*",
        ".*smaller than the logging interval.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
    if int(os.environ.get("RANK", "0")) > 0:
        logging.getLogger().setLevel(logging.ERROR)
