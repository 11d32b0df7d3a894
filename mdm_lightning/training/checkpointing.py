"""Checkpoints that survive: atomic writes, a `last` that is always whole, preemption, non-finite losses."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from mdm_lightning.errors import UserError
from mdm_lightning.training.module import MaskedDiffusion

PREEMPTED = 75  # exit status EX_TEMPFAIL: "preempted, resume me"


class Preempted(BaseException):
    """Training stopped at a signal, after saving. Not an Exception: nothing but the command may swallow it."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"preempted: training state saved in {checkpoint}")
        self.checkpoint = checkpoint


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


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` up to date, and stops cleanly when asked to.

    Saves every ``every_n_steps`` optimizer steps, before each validation and at the end. On SIGTERM, SIGUSR1 or Ctrl-C
    (on one process or all of them) it saves within one step and raises Preempted everywhere; a second Ctrl-C, a second
    or more later, stops at once.

    Args:
        folder: where ``last.ckpt`` lives.
        every_n_steps: optimizer steps between saves.
        on_preempted: called on the first process after the save (on SLURM: requeue the job).
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, folder: str | Path, every_n_steps: int, on_preempted: Callable[[], None] | None = None) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.on_preempted = on_preempted
        self.pending_validation = False
        self._signalled_at = 0.0
        self._handlers: dict[int, Any] = {}
        self._group: Any = None  # the process group that shares signals; None on a single process
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        if trainer.world_size > 1:
            # Signals are shared over CPUs, so that asking never waits for a GPU.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            # After Lightning has installed its own: its SIGTERM handler waits for the other ranks, and hangs.
            self._handlers = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        if self.pending_validation:
            self._validate(trainer)

    def _validate(self, trainer: Trainer) -> None:
        """Runs the validation that was due when the checkpoint was saved; Lightning counts it as done."""
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # or it would go on where the validation before this one ended
        trainer.validating = True
        loop.run()
        trainer.training = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self._signalled_at and time.monotonic() - self._signalled_at > 1
        if number == signal.SIGINT and again and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self._signalled_at = self._signalled_at or time.monotonic()

    def _stop_requested(self) -> bool:
        """Whether any process was signalled. All processes ask together: it is a collective."""
        flag = torch.tensor(float(bool(self._signalled_at)))
        if self._group is not None:
            dist.all_reduce(flag, group=self._group)
        return bool(flag)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if step == self._last_step:  # in the middle of an accumulated batch: gradients are not part of a checkpoint
            return
        self._last_step = step
        finished = trainer.max_steps == step
        self.pending_validation = finished or _validation_is_due(trainer)
        stop = self._stop_requested()
        if stop or self.pending_validation or step % self.every_n_steps == 0:
            self.save(trainer)
        if stop:
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.pending_validation:  # the last step was not one at which Lightning validates
            self._validate(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # The state was saved just before validation began, and notes that validation is pending.
        if not trainer.sanity_checking and self._handlers and self._stop_requested():
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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

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
