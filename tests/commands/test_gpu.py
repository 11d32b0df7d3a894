"""Whole runs on a GPU: replicated, sharded and resumed ones end like the plain one. On a CPU too, to try the test."""

import pytest

from mdm_lightning.stopping import PREEMPTED
from tests.commands.conftest import interfere, scalars


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_one_process_of_every_kind_trains_like_the_plain_run(train, tmp_path, accelerator, precision):
    options = (f"trainer.accelerator={accelerator}", f"trainer.precision={precision}", "trainer.devices=1")
    runs = {"plain": (), "ddp": ("trainer=ddp",), "fsdp": ("trainer=fsdp",)}
    for name, strategy in runs.items():
        outcome = train(*strategy, *options, f"run_dir={name}")
        assert outcome.status == 0, outcome.stderr
    stop = interfere("SendSignal", number="SIGTERM", step=5)
    assert train(*options, "run_dir=cut", *stop).status == PREEMPTED
    assert train(*options, "run_dir=cut", "ckpt=auto").status == 0
    plain = scalars(tmp_path / "plain")
    for name in ("ddp", "fsdp", "cut"):
        logged = scalars(tmp_path / name)
        for tag in ("train/loss", "val/loss"):
            assert logged[tag] == pytest.approx(plain[tag], rel=1e-2), (name, tag)
