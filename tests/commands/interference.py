"""Callbacks that do to a training run what the world does to it. Loaded through ``training.callbacks``."""

import os
import signal
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SendSignal(Callback):
    """Sends a signal to this process, on one rank or all, at an optimizer step or in the validation after it."""

    def __init__(self, number: str, step: int, *, validating: bool = False, ranks: tuple[int, ...] = (0,)) -> None:
        self.number = signal.Signals[number]
        self.step = step
        self.validating = validating
        self.ranks = ranks

    def _send(self, trainer: Trainer) -> None:
        if trainer.global_step == self.step and trainer.global_rank in self.ranks:
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if not self.validating:
            self._send(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if self.validating:
            self._send(trainer)


class PoisonWeights(Callback):
    """Makes the loss NaN from an optimizer step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


class RaiseOnRank(Callback):
    """Raises an unexpected error on one rank only."""

    def __init__(self, step: int, rank: int) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            raise RuntimeError("a cosmic ray")
