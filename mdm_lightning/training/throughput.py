"""Speed and memory: tokens per second, FLOPs utilisation against the measured matmul peak."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.scalars import log_scalars, show

_COMPUTED_IN = {"bf16": torch.bfloat16, "16": torch.float16}
"""Data type of the matrix products, by the first word of the precision."""


class Throughput(Callback):
    """Logs tokens/s over all processes, the share of the matmul peak in use, and memory.

    Model FLOPs count the matrix products of forward and backward passes: the trunk for every token, the head for
    masked rows only, none for recomputation. The peak is measured once, on this device, in the run's precision.

    Args:
        every_n_steps: length of the window in optimizer steps.
        tokens_per_step: tokens of a global batch, over all processes.
        length: sequence length.
    """

    def __init__(self, every_n_steps: int, tokens_per_step: int, length: int) -> None:
        self.every_n_steps = every_n_steps
        self.tokens_per_step = tokens_per_step
        self.length = length
        self.tokens_per_second: list[float] = []
        self._peak = 0.0
        self._last_step = 0
        self._window_step = 0
        self._window_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bits = str(trainer.precision).partition("-")[0]
        self._peak = matmul_peak(pl_module.device, _COMPUTED_IN.get(bits, torch.float32))
        self._last_step = trainer.global_step
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self._window_step, self._window_start = trainer.global_step, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if step % self.every_n_steps:
            return
        # Reading the loss for the log has just waited for the device, so the clock is honest.
        seconds = time.perf_counter() - self._window_start
        rate = (step - self._window_step) * self.tokens_per_step / seconds
        self.tokens_per_second.append(rate)
        show(pl_module, "tokens/s", rate)
        assert isinstance(pl_module, MaskedDiffusion)
        trunk, head = pl_module.denoiser.forward_flops(self.length)
        flops = 3 * (trunk + head / 2) * rate / trainer.world_size  # half of the tokens are masked, on average
        values = {"throughput/tokens_per_second": rate, "throughput/memory_gib": memory_gib(pl_module.device)}
        if flops == flops:
            values["throughput/flops_utilisation"] = flops / self._peak
        log_scalars(trainer, values)
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart(trainer)  # validation is not training time


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measured peak of a square matrix product on this device, in FLOP/s: the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def memory_gib(device: torch.device) -> float:
    """Peak memory in GiB: of the device where it has its own, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
