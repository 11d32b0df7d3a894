"""The LightningModule: a denoiser, the NELBO as its loss, and what is logged of both."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.diffusion.masking import MaskedBatch
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.training.metrics import AnswerNelboMetric, CountProfileMetric, NelboMetric, ProfileMetric
from mdm_lightning.training.optimizer import LearningRateSchedule, OptimizerFactory


class MaskedDiffusion(lightning.LightningModule):
    """Trains a denoiser on the NELBO, in nats per maskable position of the global batch.

    Masking is the data module's business: a step receives a MaskedBatch and neither draws random numbers nor waits for
    the device.

    Args:
        denoiser: the network.
        optimizer: builds the optimiser from the module.
        lr_schedule: factor on the learning rate at each step.
        compile: compile the denoiser, and its head with the loss.
        fill: gives a denoiser that was built without memory its weights, on the device, once it is sharded.
        metadata: plain containers stored in every checkpoint, so that it can be used without its run folder.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        optimizer: OptimizerFactory,
        lr_schedule: LearningRateSchedule,
        *,
        compile: bool = False,
        fill: Callable[[Denoiser, torch.device], None] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.optimizer_factory = optimizer
        self.lr_schedule = lr_schedule
        self.fill = fill
        self.metadata = metadata or {}
        self.strict_loading = not self.frozen()  # what is not trained is not part of a checkpoint
        self.train_nelbo = NelboMetric()
        self.train_profile = ProfileMetric()
        self.val_nelbo = NelboMetric()
        self.val_profile = ProfileMetric()
        self.val_answer = AnswerNelboMetric()
        self.val_counts = CountProfileMetric(denoiser.length)
        self.gradient_norm = torch.zeros(())
        self.first_bad_step = torch.full((), -1, dtype=torch.int64)
        self._configured = False
        if compile:
            self.denoiser.compile()

    def frozen(self) -> set[str]:
        """Names of the weights that are not trained."""
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    def configure_model(self) -> None:
        """Shards the denoiser, block by block, where the strategy asks for it, and gives it the weights it lacks."""
        if self._configured:
            return
        self._configured = True
        mesh = self.device_mesh
        if mesh is not None:
            if self.frozen():  # whose precision may be lower, which one shard cannot hold
                self.denoiser.to(torch.float32)
            for block in self.denoiser.shards():
                fully_shard(block, mesh=mesh["data_parallel"])
            # The head is called after the trunk's forward, so what the blocks do not hold must stay whole until then.
            fully_shard(self.denoiser, mesh=mesh["data_parallel"], reshard_after_forward=False)
        if self.fill is not None:
            self.fill(self.denoiser, self.trainer.strategy.root_device)

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        estimate = nelbo(self.denoiser, batch)
        # Divided by what all processes and micro-batches of the step share, so that neither decides what is minimised:
        # Lightning averages over both.
        loss = estimate.per_sequence.sum() / (batch.lengths.sum() if batch.positions is None else batch.positions)
        self.train_nelbo.update(estimate, batch)
        self.train_profile.update(estimate, batch)
        self._remember_if_not_finite(loss.detach())
        return loss

    def validation_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        estimate = nelbo(self.denoiser, batch)
        self.val_nelbo.update(estimate, batch)
        self.val_profile.update(estimate, batch)
        self.val_counts.update(estimate, batch)
        self.val_answer.update(estimate, batch)

    def on_validation_epoch_start(self) -> None:
        self.val_nelbo.reset()
        self.val_profile.reset()
        self.val_counts.reset()
        self.val_answer.reset()

    def on_train_start(self) -> None:
        self.first_bad_step = self.first_bad_step.to(self.device)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by norm and keeps the norm for the logs, without waiting for the device."""
        limit = float("inf") if not gradient_clip_val else float(gradient_clip_val)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and optimizer.defaults.get("fused"):
            # Lightning leaves it to a fused optimiser's step, which comes after the clipping.
            scaler.unscale_(optimizer)
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit).detach()
        if self.trainer.precision != "16-mixed":  # there the loss scaler meets infinities by design
            self._remember_if_not_finite(self.gradient_norm)

    def _remember_if_not_finite(self, value: Tensor) -> None:
        value = value.full_tensor() if isinstance(value, DTensor) else value
        first_time = (self.first_bad_step < 0) & ~torch.isfinite(value)
        self.first_bad_step = torch.where(first_time, self.global_step, self.first_bad_step)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self)
        schedule = LambdaLR(optimizer, self.lr_schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_end(self) -> None:
        # For the checkpoint callback to monitor; the loggers are written by the ScalarLog callback.
        self.log("val/loss", self.val_nelbo.compute().float(), logger=False, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mdm_lightning"] = self.metadata
        checkpoint["state_dict"] = self.trained(checkpoint["state_dict"])

    def trained(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state dict without what is known already: if some weights are frozen, only those that are not."""
        frozen = self.frozen()
        kept = {name for name, _ in self.named_parameters()} - frozen if frozen else state.keys()
        return {name: value for name, value in state.items() if name in kept}
