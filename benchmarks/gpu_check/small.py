"""The network of ``model=small`` and batches for it, masked as in training."""

from dataclasses import dataclass

import sampling
import torch
import train_step
from torch.optim import Optimizer

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import IndependentMasking, MaskedBatch
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training.optimizer import AdamW


@dataclass(frozen=True)
class Size:
    """Sizes of a network and of its batches. V counts MASK, as model cards do."""

    vocabulary: int
    length: int
    hidden_size: int
    depth: int
    heads: int
    batch: int

    def network(self, device: torch.device) -> DiT:
        shape = {"hidden_size": self.hidden_size, "depth": self.depth, "heads": self.heads}
        return sampling.model(self.vocabulary - 1, self.length, device, **shape)

    def batches(self, count: int, device: torch.device, batch: int | None = None) -> list[MaskedBatch]:
        process = IndependentMasking(LinearSchedule(), StratifiedTimes())
        return train_step.make_batches(
            self.vocabulary, batch or self.batch, count, device, length=self.length, process=process
        )


SMALL = Size(vocabulary=50_258, length=1024, hidden_size=768, depth=12, heads=12, batch=32)
TINY = Size(vocabulary=512, length=32, hidden_size=32, depth=2, heads=2, batch=4)


def size(tiny: bool) -> Size:
    return TINY if tiny else SMALL


def optimizer(model: DiT) -> Optimizer:
    return AdamW(lr=3e-4)(model)


def training_step(
    loss: train_step.Loss, model: DiT, adamw: Optimizer, batch: MaskedBatch, precision: str = "bf16"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward pass, clipping and update, as the trainer does them; returns loss and gradient norm."""
    value = train_step.step(loss, model, batch, precision)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    return value, norm
