"""The callbacks and loggers of a training run, in the order in which they must act."""

from pathlib import Path

from hydra.utils import get_class, instantiate
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from mdm_lightning.checkpoint.find import CHECKPOINTS
from mdm_lightning.commands.slurm import requeue
from mdm_lightning.data.source import PreparedData
from mdm_lightning.training.annealing import AttentionAnnealing
from mdm_lightning.training.checkpointing import LastCheckpoint, StopOnNonFinite
from mdm_lightning.training.dashboards import Figures, GeneratedText, TensorBoard
from mdm_lightning.training.ema import ExponentialMovingAverage
from mdm_lightning.training.loggers import CsvLog, MlflowLog, WandbLog
from mdm_lightning.training.progress import StepBar, StepLog, bar_is_drawn
from mdm_lightning.training.scalars import ScalarLog
from mdm_lightning.training.signals import Signals
from mdm_lightning.training.throughput import Throughput


def build_callbacks(
    training: DictConfig,
    schedule: DictConfig,
    sampler: DictConfig,
    data: PreparedData,
    output: Path,
    *,
    seed: int,
    max_steps: int,
    progress_bar: bool,
    ended: bool,
) -> list[Callback]:
    """Callbacks in the order in which they act after a step.

    Signals are noted before anything else happens. The average comes first, so that everything after sees it; logs
    before checkpoints, because a checkpoint holds the state of the logs; checkpoints last (Lightning moves them there
    too).
    """
    log_every = training.log_every
    signals = Signals()
    average: list[Callback] = []
    if training.ema is not None:
        average.append(ExponentialMovingAverage(training.ema, warmup=training.ema_warmup))
    annealing: list[Callback] = []
    if steps := training.get("attention_annealing"):  # which older runs have not
        annealing.append(AttentionAnnealing(steps, seed, max_steps))
    return [
        signals,
        *annealing,
        StopOnNonFinite(log_every),
        GeneratedText(instantiate(sampler), data, training.samples, seed),
        ScalarLog(log_every, data.bytes_per_position, answers=data.answer_end is not None),
        *([] if training.watch is None else [instantiate(training.watch)]),
        Throughput(log_every, training.global_batch_size * data.length, data.length),
        Figures({"training": instantiate(training.schedule), "sampling": instantiate(schedule)}),
        *average,
        *([StepBar()] if progress_bar else []),
        StepLog(log_every, on_screen=progress_bar and not bar_is_drawn()),
        LastCheckpoint(output / CHECKPOINTS, training.save_every, signals, on_preempted=requeue, ended=ended),
        ModelCheckpoint(
            output / CHECKPOINTS,
            filename="step{step}-val{val/loss:.4f}",
            auto_insert_metric_name=False,
            monitor="val/loss",
            save_top_k=training.keep_best,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # what a killed run left is the same checkpoint
        ),
        *(instantiate(extra) for extra in training.callbacks.values()),
    ]


def build_loggers(loggers: DictConfig, resume_step: int) -> list[Logger]:
    """Loggers of a training run; ours go on with its log.

    Args:
        resume_step: optimizer step from which the run goes on, 0 where it begins.
    """
    built = []
    for logger in loggers.values():
        ours = issubclass(get_class(logger._target_), TensorBoard | CsvLog | WandbLog | MlflowLog)
        built.append(instantiate(logger, **({"resume_step": resume_step} if ours else {})))
    return built
