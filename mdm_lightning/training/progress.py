"""What a training run says while it runs: a bar of optimizer steps on a terminal, lines everywhere else."""

import logging
import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm

log = logging.getLogger(__name__)


class StepBar(ProgressBar):
    """Optimizer steps out of all, with loss and speed. Nothing is drawn where standard error is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm | None = None

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hidden = None if self._enabled and trainer.is_global_zero else True  # None: tqdm asks whether it is a terminal
        total = trainer.max_steps if trainer.max_steps >= 0 else None
        initial = trainer.global_step
        self._bar = tqdm(desc="Training", total=total, initial=initial, unit="step", dynamic_ncols=True, disable=hidden)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if self._bar is not None and not self._bar.disable and trainer.global_step > self._bar.n:
            self._bar.set_postfix_str(", ".join(_readings(trainer)), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_description("Validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_description("Training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class StepLog(Callback):
    """One line every few optimizer steps, in the run's log file, and on the screen where no bar is drawn.

    Args:
        every_n_steps: optimizer steps between lines; the windows of the logged scalars, whose values they show.
        on_screen: whether the screen is to show them.
    """

    def __init__(self, every_n_steps: int, *, on_screen: bool) -> None:
        self.every_n_steps = every_n_steps
        self.on_screen = on_screen
        self._first_step = self._last_step = 0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = self._last_step = trainer.global_step
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step, total = trainer.global_step, trainer.max_steps
        if step == self._last_step or not trainer.is_global_zero:
            return
        self._last_step = step
        if step % self.every_n_steps and step != total:
            return
        words = [f"step {step:,}" + (f" of {total:,}" if total >= 0 else ""), *_readings(trainer)]
        if total > step:
            left = (time.perf_counter() - self._started) / (step - self._first_step) * (total - step)
            words.append(f"{timedelta(seconds=round(left))} left")
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, ", ".join(words), (), None)
        for handler in logging.getLogger().handlers:
            if self.on_screen or isinstance(handler, logging.FileHandler):
                handler.handle(record)


def bar_is_drawn() -> bool:
    """Whether a progress bar has a terminal to be drawn on."""
    return sys.stderr.isatty()


def _readings(trainer: Trainer) -> list[str]:
    """The latest loss, validation loss and speed, as far as there are any."""
    values = trainer.callback_metrics
    readings = [
        f"{name} {float(values[key]):.4f}"
        for name, key in (("loss", "train/loss"), ("validation loss", "val/loss"))
        if key in values
    ]
    return [*readings, *([f"{float(values['tokens/s']):,.0f} tokens/s"] if "tokens/s" in values else [])]
