"""The K-step NELBO while training: equal to what enumeration says, for the exact denoiser of a distribution."""

import logging
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from mdm_lightning.data.tasks.toy import Balanced, DistributionSource, Extremes
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.masking import CountMasking
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, SquaredSineSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training.datamodule import MaskedDataModule
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.optimizer import AdamW, Constant
from mdm_lightning.training.schedule_watch import ScheduleWatch, running_profile

SCHEDULES = {"linear": LinearSchedule(), "squared_sine": SquaredSineSchedule(), "late": BetaSchedule(0.9, 0.3)}
STEPS = [1, 2, 4]


class Recorder(CSVLogger):
    """Keeps what is logged."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.values: dict[str, float] = {}

    def log_metrics(self, metrics, step=None) -> None:
        self.values |= dict(metrics)


def validate(source: DistributionSource, folder: Path) -> tuple[dict[str, float], MaskedDiffusion]:
    """What a validation of the distribution's exact denoiser logs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    distribution, masking, recorder = source.distribution, CountMasking(StratifiedTimes()), Recorder(folder)
    data = source.prepare(None, folder)
    denoiser = ExactDenoiser(distribution.sequences, distribution.probabilities, distribution.vocab_size)
    module = MaskedDiffusion(denoiser, AdamW(), Constant(0))
    trainer = Trainer(
        accelerator="cpu",
        logger=recorder,
        callbacks=[ScheduleWatch(SCHEDULES, STEPS)],
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.validate(
        module,
        MaskedDataModule(data, masking, masking, batch_size=64, global_batch_size=64),
        verbose=False,
    )
    return recorder.values, module


@pytest.mark.parametrize("kind", [Extremes, Balanced])
def test_predictions_of_an_exact_denoiser(kind, tmp_path):
    """Within five standard errors of the profile that enumeration gives: wrong with probability below 1e-5."""
    source = kind(length=6, train=1, validation=3000, seed=0)
    logged, module = validate(source, tmp_path)
    exact = LossProfile.from_distribution(source.distribution.sequences, source.distribution.probabilities)
    fitted = running_profile(module.val_counts.compute())
    for steps in STEPS:
        for name, schedule in SCHEDULES.items():
            value = logged[f"val/nelbo_at_{steps}/{name}"]
            estimate = fitted.nelbo(schedule, steps)
            assert value == pytest.approx(estimate.value / 6, rel=1e-12)
            assert estimate.stderr < 0.15
            assert abs(value - exact.nelbo(schedule, steps).value / 6) < 5 * estimate.stderr / 6 + 1e-6
    assert logged.keys() == {f"val/nelbo_at_{steps}/{name}" for steps in STEPS for name in SCHEDULES}


def test_one_step_costs_what_independent_tokens_do(tmp_path):
    """With one step every token is drawn alone, at log 2 each, whatever the schedule."""
    logged, _ = validate(Extremes(length=6, train=1, validation=3000, seed=0), tmp_path)
    for name in SCHEDULES:
        assert logged[f"val/nelbo_at_1/{name}"] == pytest.approx(0.6931472, abs=1e-6)


def test_too_few_sequences_log_nothing(tmp_path):
    logged, _ = validate(Balanced(length=6, train=1, validation=3, seed=0), tmp_path)
    assert logged == {}


def test_refused_steps():
    with pytest.raises(ValueError, match="positive"):
        ScheduleWatch(SCHEDULES, [8, 0])
