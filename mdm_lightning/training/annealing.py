"""Attention that opens during training, for models that were autoregressive (DiffuLLaMA, Gong et al., 2025)."""

import lightning
import torch
from lightning.pytorch import Callback, Trainer

from mdm_lightning.denoiser.attention import Opening
from mdm_lightning.denoiser.transformer import Transformer
from mdm_lightning.diffusion.masking import MaskedBatch, seeded_generator
from mdm_lightning.errors import UserError
from mdm_lightning.training.datamodule import ANNEALING


class AttentionAnnealing(Callback):
    """Opens attention from causal to the denoiser's own pattern: in optimizer step s, counted from 1, every place ahead
    is open with probability s / ``steps``.

    Which places, the same in all sequences of the step, is a pure function of the seed and the step, so that a resumed
    run goes on as if it had not been stopped. Whatever is not a training step has the denoiser's own pattern.

    Args:
        steps: number of steps until attention is the denoiser's own.
        seed: of the places.
        max_steps: of the training.

    Raises:
        UserError: training ends before attention is open.
    """

    def __init__(self, steps: int, seed: int, max_steps: int) -> None:
        if steps > max_steps:
            raise UserError(
                f"training.attention_annealing={steps} is beyond trainer.max_steps={max_steps}: attention would never "
                "be the model's own"
            )
        self.steps = steps
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Raises:
        UserError: the denoiser has no attention.
        """
        denoiser = pl_module.denoiser
        if not isinstance(denoiser, Transformer):
            raise UserError(f"training.attention_annealing= is for transformers, not {type(denoiser).__name__}")
        self._denoiser, self._final = denoiser, denoiser.attention

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: lightning.LightningModule, batch: MaskedBatch, batch_idx: int
    ) -> None:
        """Raises:
        UserError: the batch is masked block by block, beside its clean copy.
        """
        if batch.clean is not None:
            raise UserError(
                "training.attention_annealing= is not for blockwise masks, whose blocks are predicted by the model's "
                "own attention: leave one of the two out"
            )
        step, length, device = trainer.global_step, batch.tokens.shape[1], batch.tokens.device
        if step + 1 >= self.steps:
            self._denoiser.attention = self._final
            return
        generator = seeded_generator(self.seed, ANNEALING, step, device=device)
        ahead = torch.rand(length, length, generator=generator, device=device) < (step + 1) / self.steps
        self._denoiser.attention = Opening(self._final, ahead)

    def on_validation_start(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        self._denoiser.attention = self._final

    def on_train_end(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        self._denoiser.attention = self._final
