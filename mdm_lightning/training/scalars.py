"""What is logged as scalars, and when: the training window, validation, learning rate, gradient norm."""

import logging
import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import Metric

from mdm_lightning.diffusion.objective import bits_per_byte, perplexity
from mdm_lightning.training.metrics import ProfileMetric
from mdm_lightning.training.module import MaskedDiffusion

log = logging.getLogger(__name__)


class ScalarLog(Callback):
    """Logs the mean over each window of training steps, and every validation, against the optimizer step.

    The open window is part of the checkpoint: a resumed run logs exactly what the uninterrupted one would have.

    Args:
        every_n_steps: length of the training window in optimizer steps.
        bytes_per_position: UTF-8 bytes of text per maskable position; None where bits per byte make no sense.
        answers: also log what validation makes of answers up to and including their first EOS: ``val/loss`` and
            ``val/perplexity`` count the EOS that fill sequences as well, ``val/loss_to_first_eos`` and
            ``val/perplexity_to_first_eos`` do not.
    """

    def __init__(self, every_n_steps: int, bytes_per_position: float | None = None, *, answers: bool = False) -> None:
        self.every_n_steps = every_n_steps
        self.bytes_per_position = bytes_per_position
        self.answers = answers
        self.latest_validation: dict[str, float] = {}
        self._restored: dict[str, Any] | None = None
        self._module: MaskedDiffusion | None = None
        self._last_step = 0
        self._warned = False

    def likelihood(self, prefix: str, nats: float) -> dict[str, float]:
        """Scalars that restate a NELBO in nats per position."""
        values = {f"{prefix}/loss": nats, f"{prefix}/perplexity": perplexity(nats)}
        if self.bytes_per_position is not None:
            values[f"{prefix}/bits_per_byte"] = bits_per_byte(nats, self.bytes_per_position)
        return values

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        self._module = pl_module
        self._last_step = trainer.global_step
        # The saved sums are over all processes, so exactly one of them takes them up.
        if self._restored is not None and trainer.is_global_zero:
            for name, metric in self._window().items():
                for state, value in self._restored[name].items():
                    setattr(metric, state, value.to(metric.device))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if step % self.every_n_steps:
            return
        assert isinstance(pl_module, MaskedDiffusion)
        nats = float(pl_module.train_nelbo.compute())
        values = self.likelihood("train", nats) | _profile("profile_train", pl_module.train_profile)
        values["optimizer/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        values["optimizer/gradient_norm"] = float(pl_module.gradient_norm)
        for metric in self._window().values():
            metric.reset()
        show(pl_module, "train/loss", nats)
        log_scalars(trainer, values)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        loss = float(pl_module.val_nelbo.compute())
        if not math.isfinite(loss) and not self._warned and trainer.is_global_zero:
            self._warned = True
            log.warning(
                "the validation loss is not finite at step %d (%s), though that of training is: no checkpoint is the "
                "best until it is finite again. If it stays, go on from an earlier checkpoint with "
                "trainer.precision=32-true, a lower optimizer.lr or trainer.gradient_clip_val=1",
                trainer.global_step, loss,
            )  # fmt: skip
        self.latest_validation = self.likelihood("val", loss)
        if self.answers:
            nats = float(pl_module.val_answer.compute())
            named = {"val/loss_to_first_eos": nats, "val/perplexity_to_first_eos": perplexity(nats)}
            self.latest_validation |= named
        if not trainer.sanity_checking:
            log_scalars(trainer, self.latest_validation | _profile("profile", pl_module.val_profile))

    def _window(self) -> dict[str, Metric]:
        assert self._module is not None
        return {"nelbo": self._module.train_nelbo, "profile": self._module.train_profile}

    def state_dict(self) -> dict[str, Any]:
        state = {}
        for name, metric in self._window().items() if self._module else ():
            with metric.sync_context():
                state[name] = {key: torch.as_tensor(value).clone() for key, value in metric.metric_state.items()}
        return {"window": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["window"] or None


def _profile(prefix: str, metric: ProfileMetric) -> dict[str, float]:
    """Mean cross-entropy per masked position by mask ratio, one scalar per interval that holds any."""
    values = zip(metric.centres(), metric.compute().tolist(), strict=True)
    return {f"{prefix}/mask_ratio_{1 - alpha:.2f}": nats for alpha, nats in values if nats == nats}


def show(module: LightningModule, name: str, value: float) -> None:
    """Shows a value in the progress bar until there is a new one.

    As a tensor on the CPU: Lightning reads it after every step, and of a number it makes a tensor on the device, for
    which every step would wait.
    """
    module.log(name, torch.tensor(value), prog_bar=True, logger=False)


def log_scalars(trainer: Trainer, values: dict[str, float]) -> None:
    """Writes values to every logger at the present optimizer step, on the first process only."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
