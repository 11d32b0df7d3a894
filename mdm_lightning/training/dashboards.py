"""What TensorBoard shows beyond scalars: the layout, the profile and schedule figures, generated text, hparams."""

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch.utils.tensorboard.summary import hparams

from mdm_lightning.data.source import PreparedData
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.evaluation.figures import profile_history_figure, schedule_figure
from mdm_lightning.evaluation.generation.transcript import transcript
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.training.module import MaskedDiffusion

LAYOUT = {
    "Likelihood": {
        "NELBO (nats per token)": ["Multiline", ["train/loss", "val/loss"]],
        "Bits per byte": ["Multiline", ["train/bits_per_byte", "val/bits_per_byte"]],
        "Perplexity (upper bound)": ["Multiline", ["train/perplexity", "val/perplexity"]],
    },
    "What few sampling steps cost: NELBO of K steps (nats per token)": {
        "Validation": ["Multiline", ["val/loss", "val/nelbo_at_.*"]],
    },
    "Optimisation": {
        "Learning rate": ["Multiline", ["optimizer/learning_rate"]],
        "Gradient norm": ["Multiline", ["optimizer/gradient_norm"]],
    },
    "Speed": {
        "Tokens per second": ["Multiline", ["throughput/tokens_per_second"]],
        "FLOPs utilisation (of measured matmul peak)": ["Multiline", ["throughput/flops_utilisation"]],
        "Peak memory (GiB)": ["Multiline", ["throughput/memory_gib"]],
    },
    "Evaluations": {
        "NELBO (nats per token)": ["Multiline", ["likelihood/nelbo_nats_per_token"]],
        "Generated text": ["Multiline", ["generation/.*"]],
        "Tasks and benchmarks": ["Multiline", ["task/.*", "lm_eval/.*"]],
    },
}
"""The tab of custom scalars. Runs whose layouts differ would each get their own, so all runs have this one."""

THUMBNAIL = 0.7
"""Of a figure's size on paper: TensorBoard shows images some 350 pixels wide, where its letters must be legible."""


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger writing straight into the run folder, with this project's dashboard layout.

    Args:
        folder: where the event files go.
        resume_step: discard what a killed run logged after this optimizer step; it is logged again.
    """

    def __init__(self, folder: str, resume_step: int | None = None) -> None:
        purge: dict[str, Any] = {} if not resume_step else {"purge_step": resume_step + 1}
        super().__init__(folder, name="", version="", default_hp_metric=False, **purge)

    def log_layout(self) -> None:
        self.experiment.add_custom_scalars(LAYOUT)

    def log_figure(self, tag: str, figure: Figure, step: int) -> None:
        """Shows a figure, its letters larger than on paper, and sharp when it is opened."""
        (width, height), dots = figure.get_size_inches(), figure.get_dpi()
        figure.set_size_inches(THUMBNAIL * width, THUMBNAIL * height)
        figure.set_dpi(2 * dots)
        self.experiment.add_figure(tag, figure, step, close=False)
        figure.set_dpi(dots)
        figure.set_size_inches(width, height)

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Shows a text, which is Markdown."""
        self.experiment.add_text(tag, text, step)

    def log_final(
        self,
        options: Mapping[str, Any],
        metrics: Mapping[str, float],
        step: int,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        """Fills the HPARAMS tab with one row for this run.

        Args:
            options: the run's hyperparameters.
            metrics: what it achieved.
            step: optimizer step.
            columns: hyperparameters, with a value of their type, that this run may lack and others beside it have:
                TensorBoard takes the columns of its table from whichever run it reads first.
        """
        values = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in options.items()}
        experiment, _, _ = hparams({**(columns or {}), **values}, dict(metrics))
        _, start, end = hparams(values, dict(metrics))
        # Not add_hparams, which would open a second event file.
        for summary in (experiment, start, end):
            self.experiment._get_file_writer().add_summary(summary)
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)
        self.experiment.flush()


def boards(trainer: Trainer) -> list[TensorBoard]:
    """TensorBoard loggers of the first process; none on the others."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)] if trainer.is_global_zero else []


class Figures(Callback):
    """The schedule's curves at the start, the loss profile so far at every validation.

    Profiles of earlier validations are part of the checkpoint: a resumed run draws what an uninterrupted one would.
    """

    def __init__(self, schedules: Mapping[str, MaskSchedule]) -> None:
        self.schedules = dict(schedules)
        self.profiles: dict[int, list[tuple[float, float]]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for board in boards(trainer):
            board.log_layout()
            if self.schedules:
                board.log_figure("schedules", schedule_figure(self.schedules), trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        if trainer.sanity_checking:
            return
        metric = pl_module.val_profile
        points = zip(metric.centres(), metric.compute().tolist(), strict=True)
        self.profiles[trainer.global_step] = [(alpha, nats) for alpha, nats in points if not math.isnan(nats)]
        for board in boards(trainer):
            board.log_figure("profile", profile_history_figure(self.profiles), trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"profiles": dict(self.profiles)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.profiles = state_dict["profiles"]


class GeneratedText(Callback):
    """Samples a few sequences at every validation, always from the same noise, with the averaged weights.

    All processes sample the same sequences: a sharded model needs them all for a forward pass.

    Args:
        sampler: completes the canvases.
        data: where prompts come from: the first validation sequences, masked wherever they may be.
        sequences: how many; 0 for none.
        seed: of the samples.
    """

    def __init__(self, sampler: Sampler, data: PreparedData, sequences: int = 2, seed: int = 0) -> None:
        self.sampler = sampler.for_tokenizer(data.tokenizer)
        self.data = data
        self.sequences = min(sequences, len(data.validation))
        self.seed = seed
        self.latest: list[str] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MaskedDiffusion)
        if self.sequences == 0 or trainer.sanity_checking:
            return
        batch = self.data.validation.__getitems__(range(self.sequences))
        canvas = batch["tokens"].masked_fill(batch["maskable"], pl_module.denoiser.mask_id)
        noise = SequenceNoise(self.seed, range(self.sequences))
        with trainer.precision_plugin.forward_context():
            samples = self.sampler(pl_module.denoiser, canvas.to(pl_module.device), noise)
        lengths = batch["maskable"].int().argmax(1).tolist()
        rows = zip(samples.tokens.cpu(), lengths, strict=True)
        self.latest = [transcript(self.data.tokenizer, tokens, length) for tokens, length in rows]
        for board in boards(trainer):
            for number, text in enumerate(self.latest):
                board.log_text(f"samples/{number}", verbatim(text), trainer.global_step)


def verbatim(text: str) -> str:
    """Markdown that shows the text as it is: an indented block needs no fence that the text could close."""
    return "\n".join("    " + line for line in text.splitlines())
