"""`python train.py` from the first line of the progress to the closing report, on one process and on two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdm_lightning.training.ema import CURRENT_WEIGHTS
from tests.commands.conftest import REPOSITORY, TINY, interfere, load, scalars, skip_on_one_core
from tests.patience import SECONDS

TWO = ("trainer=ddp", "trainer.devices=2")


def results(run: Path) -> dict[str, float]:
    return json.loads((run / "results.json").read_text())["metrics"]


def test_a_whole_run(train, tmp_path):
    outcome = train("training.global_batch_size=4")
    assert outcome.status == 0, outcome.stderr
    (run,) = (tmp_path / "outputs/train").iterdir()
    for word in ("Validation NLL", "Perplexity", "Bits per byte", "unigram", "bigram", "Generated text 2"):
        assert word in outcome.stdout
    assert f"evaluate.py ckpt={run.relative_to(tmp_path)}" in outcome.stdout
    assert "tensorboard --logdir outputs" in outcome.stdout
    # The run folder is self-contained.
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "tokenizer",
        "checkpoints",
        "results.json",
        "train.log",
    }
    assert "${" not in (run / "config.yaml").read_text()
    checkpoint = load(run / "checkpoints/last.ckpt")  # weights_only=True
    assert checkpoint["mdm_lightning"]["config"]["model"]["hidden_size"] == 32
    assert len(list((run / "checkpoints").glob("step*.ckpt"))) == 1  # training.keep_best


def test_tensorboard_holds_what_the_dashboard_shows(train, tmp_path):
    assert train("run_dir=run").status == 0
    board = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0, "images": 0}).Reload()
    tags = board.Tags()
    logged = set(tags["scalars"])
    assert logged >= {
        "train/loss", "train/perplexity", "train/bits_per_byte", "val/loss", "val/perplexity", "val/bits_per_byte",
        "val/nelbo_at_8/linear", "val/nelbo_at_32/squared_sine",
        "optimizer/learning_rate", "optimizer/gradient_norm", "throughput/tokens_per_second",
        "throughput/flops_utilisation", "throughput/memory_gib",
    }  # fmt: skip
    assert {"schedules", "profile"} <= set(tags["images"])
    assert any(tag.startswith("samples/") for tag in tags["tensors"])
    assert "custom_scalars__config__" in tags["tensors"]
    assert "_hparams_/experiment" in set(board.summary_metadata)
    values = scalars(tmp_path / "run")
    assert sorted(values["train/loss"]) == list(range(1, 11))
    assert sorted(values["val/loss"]) == [4, 8, 10]
    assert values["val/loss"][10] == pytest.approx(results(tmp_path / "run")["val/loss"])


def test_the_monitored_checkpoint_is_the_best(train, tmp_path):
    assert train("run_dir=run", "training.keep_best=2").status == 0
    losses = scalars(tmp_path / "run")["val/loss"]
    best = sorted(losses, key=losses.__getitem__)[:2]
    kept = {load(path)["global_step"] for path in (tmp_path / "run/checkpoints").glob("step*.ckpt")}
    assert kept == set(best)


def test_averaged_weights_are_what_is_validated_and_saved(train, tmp_path):
    assert train("run_dir=ema", "training.ema=0.9").status == 0
    assert train("run_dir=raw", "training.ema=null").status == 0
    ema, raw = load(tmp_path / "ema/checkpoints/last.ckpt"), load(tmp_path / "raw/checkpoints/last.ckpt")
    name = "denoiser.blocks.0.attn_qkv.weight"
    assert torch.equal(ema["current_model_state"][name], raw["state_dict"][name])
    assert not torch.equal(ema["state_dict"][name], ema["current_model_state"][name])
    assert results(tmp_path / "ema")["val/loss"] != results(tmp_path / "raw")["val/loss"]


@pytest.mark.parametrize(
    "choice",
    [
        "masking@training.masking=count",
        "schedule@training.schedule=beta",
        "schedule@training.schedule=cosine",
        "timesteps@training.times=uniform",
        "timesteps@training.times=bell",
        "optimizer=muon",
        "lr_schedule=linear",
        "model.time_conditioning=true",
        "model.tie_weights=true",
        "model.activation_checkpointing=true",
        "logger=csv",
        "logger=none",
        "sampler=llada",
    ],
)
def test_every_choice_trains(train, choice):
    outcome = train(choice)
    assert outcome.status == 0, outcome.stderr


def test_a_task_trains(train):
    outcome = train("data=sudoku_4x4", "data.train=64", "data.validation=16", "tokenizer=task", "model.length=64")
    assert outcome.status == 0, outcome.stderr
    assert "Bits per byte" not in outcome.stdout


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_train_as_one(train, tmp_path, optimizer):
    """Equal global batches, masks and validation; only the order of summation in the gradients differs."""
    chosen = f"optimizer={optimizer}"
    assert train("run_dir=one", chosen).status == 0
    assert train("run_dir=two", chosen, *TWO, interpreters=optimizer == "adamw").status == 0  # as outside of tests
    assert train("run_dir=sharded", chosen, "trainer=fsdp", "trainer.devices=2").status == 0
    one = scalars(tmp_path / "one")
    for other in ("two", "sharded"):
        logged = scalars(tmp_path / other)
        for tag in ("train/loss", "val/loss", "optimizer/gradient_norm"):
            assert logged[tag] == pytest.approx(one[tag], rel=2e-4), (other, tag)
        weights = load(tmp_path / other / "checkpoints/last.ckpt")["state_dict"]
        for name, value in load(tmp_path / "one/checkpoints/last.ckpt")["state_dict"].items():
            torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.ddp
@pytest.mark.slow
def test_a_sharded_run_resumes_as_a_replicated_one_of_one_process(train, tmp_path):
    muon = "optimizer=muon"  # which has AdamW beside it
    assert train("run_dir=whole", muon).status == 0
    stop = interfere("SendSignal", number="SIGTERM", step=5)
    assert train("run_dir=cut", muon, "trainer=fsdp", "trainer.devices=2", *stop).status == 75
    assert train("ckpt=cut", "trainer=auto").status == 0
    assert scalars(tmp_path / "cut")["val/loss"][10] == pytest.approx(
        scalars(tmp_path / "whole")["val/loss"][10], rel=1e-3
    )


@pytest.mark.ddp
@pytest.mark.slow
def test_a_sharded_run_resumes_sharded(train, tmp_path):
    """Weights and average go on; what was not sharded cannot be, and says so."""
    sharded = ("trainer=fsdp", "trainer.devices=2")
    muon = "optimizer=muon"  # which has AdamW beside it
    assert train("run_dir=whole", muon, *sharded).status == 0
    stop = interfere("SendSignal", number="SIGTERM", step=5)
    assert train("run_dir=cut", muon, *sharded, *stop).status == 75
    resumed = train("ckpt=cut", *sharded)
    assert resumed.status == 0, resumed.stderr
    for part in ("state_dict", CURRENT_WEIGHTS):
        whole, cut = (load(tmp_path / run / "checkpoints/last.ckpt")[part] for run in ("whole", "cut"))
        for name, value in whole.items():
            assert torch.equal(value, cut[name]), (part, name)
    assert train("run_dir=one", "trainer.max_steps=4").status == 0
    assert "go on without trainer=fsdp" in train("ckpt=one", *sharded).error


@pytest.mark.ddp
@pytest.mark.slow
def test_torchrun_is_left_to_start_the_ranks(tmp_path, corpus, cache):
    """As a user of a cluster types it, in real interpreters throughout."""
    skip_on_one_core()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
        str(REPOSITORY / "train.py"), *TINY, f"data.path={corpus}", *TWO,
        f"run_dir={tmp_path}/run", f"cache_dir={cache}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Validation NLL") == 1
