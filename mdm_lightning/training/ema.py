"""Exponential moving average of the weights, for replicated and sharded models alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule

from mdm_lightning.training.module import MaskedDiffusion

CURRENT_WEIGHTS = "current_model_state"


class ExponentialMovingAverage(Callback):
    """Keeps averaged weights, validates with them, and saves them as the checkpoint's ``state_dict``.

    The raw weights that training goes on with are saved beside them. Lightning's own callback averages a deep copy of
    the module made before the strategy shards it and so cannot serve FSDP; this one averages whatever parameters the
    rank holds.

    Args:
        decay: d in average <- d average + (1 - d) weights.
        warmup: lower the decay to (1 + n) / (10 + n) after n updates, so that short runs do not average in their
            random initial weights.

    Raises:
        ValueError: the decay is outside [0, 1).
    """

    def __init__(self, decay: float = 0.9999, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.average: list[Tensor] | None = None
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not earlier: by now every strategy has sharded the model and restored its weights.
        self._last_step = trainer.global_step
        if self.average is None:
            self.average = _clone(pl_module)
        # Restored before the strategy moved the weights to their device, it was left behind.
        self.average = [a.to(p.device) for a, p in zip(self.average, _trained(pl_module), strict=True)]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step > self._last_step:  # once per optimizer step, not per accumulated micro-batch
            self._last_step = trainer.global_step
            self.update(pl_module)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model's present weights."""
        assert self.average is not None
        self.updates += 1
        warm = (1 + self.updates) / (10 + self.updates) if self.warmup else 1.0
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            self.average, [p.detach() for p in _trained(model)], 1 - min(self.decay, warm)
        )

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        assert self.average is not None
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a forward pass without a backward, the root still holds whole weights
        for average, weight in zip(self.average, _trained(model), strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)

    @contextmanager
    def averaged(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model carries the averaged weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average is not None:
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.average is None:
            return
        assert isinstance(pl_module, MaskedDiffusion)
        checkpoint[CURRENT_WEIGHTS] = pl_module.trained(checkpoint["state_dict"])
        with self.averaged(pl_module):
            state = get_model_state_dict(
                pl_module, options=StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            )
            # On the CPU the state dict refers to the live weights, which are swapped back below: copy it.
            checkpoint["state_dict"] = {name: torch.as_tensor(value).clone() for name, value in state.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or CURRENT_WEIGHTS not in checkpoint:
            return
        assert isinstance(pl_module, MaskedDiffusion)
        options = StateDictOptions(full_state_dict=True, strict=pl_module.strict_loading)
        if "state_dict" in checkpoint:
            set_model_state_dict(pl_module, checkpoint["state_dict"], options=options)
        self.average = _clone(pl_module)
        # Some strategies load "state_dict", the average, after this hook; others have done so, and taken it out.
        checkpoint["state_dict"] = checkpoint[CURRENT_WEIGHTS]
        set_model_state_dict(pl_module, checkpoint["state_dict"], options=options)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]


def _trained(model: nn.Module) -> Iterator[Tensor]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def _clone(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in _trained(model)]
