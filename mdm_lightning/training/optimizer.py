"""Optimisers and learning-rate schedules, as objects a config can name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from mdm_lightning.arguments import check, check_numbers, check_shares, finite
from mdm_lightning.errors import UserError


class OptimizerFactory(Protocol):
    def __call__(self, model: nn.Module) -> Optimizer: ...


class LearningRateSchedule(Protocol):
    def __call__(self, step: int) -> float:
        """Factor on the peak learning rate at an optimizer step (counted from 0)."""
        ...


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter, 2019) with decay on matrices only: not on norms, biases or the token embedding."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check(self, "lr", finite(self.lr) and self.lr > 0, "positive and finite")
        check(
            self, "betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
        )
        check(self, "eps", finite(self.eps) and self.eps > 0, "positive and finite")
        check(self, "weight_decay", finite(self.weight_decay, 0), "finite and not negative")

    def __call__(self, model: nn.Module) -> Optimizer:
        return self.over([(name, p) for name, p in model.named_parameters() if p.requires_grad])

    def over(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
        """The optimiser of some parameters, given with their names."""
        decayed = [p for name, p in parameters if p.ndim >= 2 and "embedding" not in name.split(".")]
        plain = [p for name, p in parameters if p.ndim < 2 or "embedding" in name.split(".")]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=True)


@dataclass(frozen=True)
class Constant:
    """Linear warm-up over ``warmup_steps``, then constant."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, warmup_steps=0)

    def __call__(self, step: int) -> float:
        return _warmup(step, self.warmup_steps)


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to ``final`` of the peak at ``total_steps``."""

    total_steps: int
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_lengths(self)
        check_shares(self, "final")

    def __call__(self, step: int) -> float:
        progress = _progress(step, self.warmup_steps, self.total_steps)
        decay = self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
        return _warmup(step, self.warmup_steps) * decay


@dataclass(frozen=True)
class Linear:
    """Linear warm-up, then a constant stretch, then linear decay to ``final`` of the peak over the last ``decay``.

    ``decay`` is a share of all steps; 1 decays all the way from the end of the warm-up (a triangle).
    """

    total_steps: int
    warmup_steps: int = 0
    decay: float = 0.5
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_lengths(self)
        check_shares(self, "decay", "final")

    def __call__(self, step: int) -> float:
        start = max(self.warmup_steps, round(self.total_steps * (1 - self.decay)))
        progress = _progress(step, start, self.total_steps)
        return _warmup(step, self.warmup_steps) * (1 - (1 - self.final) * progress)


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _progress(step: int, start: int, stop: int) -> float:
    return min(1.0, max(0.0, (step - start) / max(1, stop - start)))


def _check_lengths(schedule: Cosine | Linear) -> None:
    check_numbers(schedule, total_steps=1, warmup_steps=0)
    if schedule.warmup_steps > schedule.total_steps:
        raise UserError(
            f"the learning rate warms up for {schedule.warmup_steps} steps but training lasts {schedule.total_steps}: "
            "lower lr_schedule.warmup_steps or raise trainer.max_steps"
        )
