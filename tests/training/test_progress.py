"""Bars and lines of a training run count optimizer steps, whatever a step is accumulated from."""

import logging

import pytest
from lightning.pytorch import Callback, Trainer

from mdm_lightning.data.tasks.toy import Balanced
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import CountMasking
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training import progress
from mdm_lightning.training.datamodule import MaskedDataModule
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.optimizer import AdamW, Constant
from mdm_lightning.training.progress import StepBar, StepLog
from mdm_lightning.training.scalars import ScalarLog


def train(folder, *callbacks: Callback) -> None:
    """Six optimizer steps, each accumulated from two batches."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = Balanced(length=6, train=64, validation=8, seed=0).prepare(None, folder)
    masking = CountMasking(StratifiedTimes())
    module = MaskedDiffusion(DiT(2, 6, hidden_size=16, depth=1, heads=1), AdamW(), Constant(0))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=6,
        accumulate_grad_batches=2,
        val_check_interval=6,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, StepBar) for callback in callbacks),
        use_distributed_sampler=False,
        callbacks=[ScalarLog(2), *callbacks],
    )
    trainer.fit(module, MaskedDataModule(data, masking, masking, batch_size=4, global_batch_size=8))


@pytest.mark.parametrize("on_screen", [False, True])
def test_lines(tmp_path, on_screen):
    file = logging.FileHandler(tmp_path / "train.log")
    screen = logging.StreamHandler((tmp_path / "screen").open("w"))
    root = logging.getLogger()
    for handler in (file, screen):
        handler.addFilter(logging.Filter(progress.__name__))
        root.addHandler(handler)
    try:
        train(tmp_path, StepLog(2, on_screen=on_screen))
    finally:
        for handler in (file, screen):
            handler.flush()
            root.removeHandler(handler)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 2 of 6", "step 4 of 6", "step 6 of 6"]
    assert all(", loss " in line for line in lines)
    assert ["validation loss" in line for line in lines] == [False, True, True]
    assert ["left" in line for line in lines] == [True, True, False]
    assert (tmp_path / "screen").read_text().splitlines() == (lines if on_screen else [])


def test_the_bar_counts_optimizer_steps(tmp_path, monkeypatch):
    bars = []

    class Recorded(progress.tqdm):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords | {"disable": False, "file": (tmp_path / "bar").open("w")})
            self.seen = []
            bars.append(self)

        def update(self, n=1):
            result = super().update(n)
            self.seen.append(self.n)
            return result

    monkeypatch.setattr(progress, "tqdm", Recorded)
    train(tmp_path, StepBar())
    assert bars[0].total == 6
    assert bars[0].seen == [1, 2, 3, 4, 5, 6]


def test_nothing_is_drawn_without_a_terminal(tmp_path, capfd):
    train(tmp_path, StepBar())
    assert "Training" not in capfd.readouterr().err
