"""Signals during training: noted when they come, and asked for, by all processes together, where it suits."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from mdm_lightning.stopping import SIGNALS, Stopped


class Signals(Callback):
    """Notes SIGTERM, SIGUSR1 and Ctrl-C, from the start of training to its end; the first of the callbacks.

    A second Ctrl-C, a second or more later, stops at once.
    """

    def __init__(self) -> None:
        self.noted_at = 0.0
        self.active = False
        self._before: dict[int, Any] = {}
        self._group: Any = None  # the process group that shares signals; None on a single process

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Before Lightning installs its own: its SIGTERM handler waits for the other ranks, and hangs.
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            # Signals are shared over CPUs, so that asking never waits for a GPU.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)
        self.active = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.noted_at and time.monotonic() - self.noted_at > 1
        if number == signal.SIGINT and again and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise Stopped(number)
        self.noted_at = self.noted_at or time.monotonic()

    def noted(self) -> bool:
        """Whether any process was signalled. All processes ask together: it is a collective."""
        flag = torch.tensor(float(bool(self.noted_at)))
        if self._group is not None:
            dist.all_reduce(flag, group=self._group)
        return bool(flag)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.active = False
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
