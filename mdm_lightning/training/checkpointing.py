"""Checkpoints that survive: atomic writes, a `last` that is always whole, preemption, non-finite losses."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from mdm_lightning.errors import UserError
from mdm_lightning.stopping import Preempted
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.signals import Signals


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its destination, flushes it to disk, and renames it into place.

    A reader sees the old file or the new one, never half of one, whenever the process is killed. (Lightning's own
    writer goes through a temporary folder that may lie on another file system, where a rename is a copy.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def discard_partial(folder: Path) -> None:
    """Removes what processes that were killed while they saved have left; the caller knows that nobody is saving."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` up to date, and stops cleanly when asked to.

    Saves every ``every_n_steps`` optimizer steps, before each validation and at the end. On a signal (on one process or
    all of them) it saves within one step and raises Preempted everywhere.

    Args:
        folder: where ``last.ckpt`` lives.
        every_n_steps: optimizer steps between saves.
        signals: notes them.
        on_preempted: called on the first process after the save (on SLURM: requeue the job).
        ended: the run that goes on has taken all its steps: validate, and take none.
    """

    def __init__(
        self,
        folder: str | Path,
        every_n_steps: int,
        signals: Signals,
        on_preempted: Callable[[], None] | None = None,
        *,
        ended: bool = False,
    ) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.signals = signals
        self.on_preempted = on_preempted
        self.ended = ended
        self.pending_validation = False
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        if self.pending_validation or self.ended:
            self._validate(trainer)
        if self.ended:
            trainer.should_stop = True

    def _validate(self, trainer: Trainer) -> None:
        """Runs the validation that was due when the checkpoint was saved; Lightning counts it as done."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # or it would go on where the validation before this one ended
        trainer.validating = True
        loop.run()
        trainer.training = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if step == self._last_step:  # in the middle of an accumulated batch: gradients are not part of a checkpoint
            return
        self._last_step = step
        finished = trainer.max_steps == step
        self.pending_validation = finished or _validation_is_due(trainer)
        stop = self.signals.noted()
        if stop or self.pending_validation or step % self.every_n_steps == 0:
            self.save(trainer)
        if stop:
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.pending_validation:  # the last step was not one at which Lightning validates
            self._validate(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # The state was saved just before validation began, and notes that validation is pending.
        if not trainer.sanity_checking and self.signals.active and self.signals.noted():
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pending_validation = False

    def save(self, trainer: Trainer) -> None:
        """Flushes the loggers, then writes ``last.ckpt``: what a resumed run does not log again is on disk."""
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)

    def _stop(self, trainer: Trainer) -> None:
        trainer.strategy.barrier("preempted")
        if trainer.is_global_zero and self.on_preempted is not None:
            self.on_preempted()
        raise Preempted(self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"pending_validation": self.pending_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pending_validation = state_dict["pending_validation"]


def _validation_is_due(trainer: Trainer) -> bool:
    interval = trainer.val_check_batch
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return bool(trainer.enable_validation) and isinstance(interval, int) and batches % interval == 0


class StopOnNonFinite(Callback):
    """Stops training when a loss or gradient was not finite, before anything is saved from it.

    Args:
        every_n_steps: how often to look; the step at which it happened is remembered on the device meanwhile.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._check(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        bad = int(pl_module.first_bad_step)
        if bad < 0:
            return
        last = next((c.path for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)), None)
        good = f"the last good checkpoint is {last}" if last is not None and last.exists() else "nothing was saved yet"
        raise UserError(
            f"the loss or gradient was not finite at step {bad}; {good}. "
            "Try a lower optimizer.lr, a longer lr_schedule.warmup_steps or trainer.gradient_clip_val=1"
        )
