"""What the world does to a command: callbacks of a training run (loaded through ``training.callbacks``), and
evaluations (through ``evaluation``)."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.training.module import MaskedDiffusion


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


class SignalIn(Callback):
    """Sends a signal to this process in a hook before or after training."""

    def __init__(self, number: str, hook: str) -> None:
        setattr(self, hook, lambda *args, **kwargs: os.kill(os.getpid(), signal.Signals[number]))


class Hold(Callback):
    """Says that a step has come, by creating a file, and waits there until there is another file."""

    def __init__(self, step: int, begun: str, until: str) -> None:
        self.step = step
        self.begun = Path(begun)
        self.until = Path(until)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.begun.touch()
            while not self.until.exists():
                time.sleep(0.05)


class PoisonWeights(Callback):
    """Makes the loss NaN from an optimizer step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


class PoisonValidation(Callback):
    """Makes the validation loss NaN, and leaves training as it is."""

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        pl_module.val_nelbo.nats = pl_module.val_nelbo.nats * float("nan")


class RaiseOnRank(Callback):
    """Raises an unexpected error on one rank only."""

    def __init__(self, step: int, rank: int) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            raise RuntimeError("a cosmic ray")


@dataclass(frozen=True)
class Incident:
    """An evaluation that measures nothing: at a step budget, and on one rank only, something happens.

    Args:
        sampler: its step budget is the cell's.
        kind: "raise" an error, "kill" the process, send it SIGINT ("interrupt") or SIGTERM ("terminate"), or "wait".
        steps: at which step budget.
        rank: on which rank.
        until: what happens does so only as long as there is no such file. "kill" creates it.
        first: only where this is the first instance; None for wherever.
    """

    sampler: Sampler
    kind: str
    steps: int
    rank: int = 0
    until: str = ""
    first: int | None = None

    def __call__(self, subject: Subject) -> Iterator[Row]:
        if self.first not in (None, subject.first):
            return
        subject.processes.map(lambda unit: self._happen(subject.processes.rank), range(4), "incident")
        yield Row("survived", 1.0, None, 1, {})

    def _happen(self, rank: int) -> None:
        over = bool(self.until) and Path(self.until).exists()
        if self.sampler.steps != self.steps or rank != self.rank or over:
            return
        if self.kind == "raise":
            raise RuntimeError("a cosmic ray")
        if self.kind == "kill":
            if self.until:
                Path(self.until).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "interrupt":
            signal.raise_signal(signal.SIGINT)
        if self.kind == "terminate":
            signal.raise_signal(signal.SIGTERM)
        while self.kind == "wait" and not Path(self.until).exists():
            time.sleep(0.05)
