"""The progress bar: optimizer steps out of all, loss and speed."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, counting towards ``max_steps`` because the training stream itself has no end."""

    @property
    def total_train_batches(self) -> int | float:
        steps = self.trainer.max_steps
        return float("inf") if steps < 0 else steps * self.trainer.accumulate_grad_batches

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        # Lightning numbers epochs here; there is only one.
        self.train_progress_bar.set_description("Training")
        self.train_progress_bar.initial = trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        values = super().get_metrics(trainer, pl_module)
        values.pop("v_num", None)
        rate = values.pop("tokens/s", None)
        shown: dict[str, int | str | float | dict[str, float]] = {
            name: f"{value:.3f}" if isinstance(value, float) else value for name, value in values.items()
        }
        if isinstance(rate, float):
            shown["tokens/s"] = f"{rate:,.0f}"
        return shown
