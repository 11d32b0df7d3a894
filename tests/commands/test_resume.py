"""Stopping and going on: a resumed run is the run that was never stopped, bit for bit."""

import csv
import shlex
import signal
from pathlib import Path

import pytest
import torch

from tests.commands.conftest import REPOSITORY, interfere, load, scalars

TWO = ("trainer=ddp", "trainer.devices=2")


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, average, optimiser, data position and every logged loss are equal to the last bit."""
    a, b = load(one / "checkpoints/last.ckpt"), load(other / "checkpoints/last.ckpt")
    assert a["global_step"] == b["global_step"]
    for group in ("state_dict", "current_model_state"):
        assert a[group].keys() == b[group].keys()
        for name, value in a[group].items():
            assert torch.equal(value, b[group][name]), (group, name)
    moments = a["optimizer_states"][0]["state"]
    assert moments
    for number, state in moments.items():
        for name, value in state.items():
            assert torch.equal(value, b["optimizer_states"][0]["state"][number][name]), (number, name)
    assert a["lr_schedulers"] == b["lr_schedulers"]
    assert scalars(one) == scalars(other)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "csv/metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not key.startswith("throughput/")} for row in found]


def test_the_log_of_a_killed_run_in_csv(train, tmp_path):
    assert train("run_dir=whole", "logger=csv").status == 0
    killed = train("run_dir=cut", "logger=csv", *interfere("SendSignal", number="SIGKILL", step=8))
    assert killed.status == -signal.SIGKILL
    assert len(rows(tmp_path / "cut")) > 8  # there at once, and partly beyond the checkpoint
    assert train("ckpt=cut", tiny=False).status == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.fixture
def uninterrupted(train, tmp_path: Path) -> Path:
    assert train("run_dir=whole").status == 0
    return tmp_path / "whole"


@pytest.mark.parametrize(
    ("number", "step", "validating"),
    [("SIGTERM", 5, False), ("SIGUSR1", 3, False), ("SIGINT", 7, False), ("SIGTERM", 4, True), ("SIGTERM", 8, False)],
)
def test_preempted_then_resumed(train, tmp_path, uninterrupted, number, step, validating):
    stopped = train("run_dir=cut", *interfere("SendSignal", number=number, step=step, validating=validating))
    assert stopped.status == 75
    assert "train.py ckpt=" in stopped.stderr.rpartition("resume with: ")[2]
    saved = load(tmp_path / "cut/checkpoints/last.ckpt")["global_step"]
    assert saved == step if validating else saved == step + 1
    assert train("ckpt=cut").status == 0
    assert_same_run(uninterrupted, tmp_path / "cut")


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 75), ("SIGKILL", -signal.SIGKILL)])
def test_stopped_in_the_last_validation(train, tmp_path, uninterrupted, number, status):
    """All steps are taken: going on validates, writes the results, and is done; once."""
    stop = interfere("SendSignal", number=number, step=10, validating=True)
    assert train("run_dir=cut", *stop).status == status
    assert not (tmp_path / "cut/results.json").exists()
    resumed = train("ckpt=cut")
    assert resumed.status == 0, resumed.stderr
    assert "Generated text 1" in resumed.stdout
    assert_same_run(uninterrupted, tmp_path / "cut")
    assert (tmp_path / "cut/results.json").read_text() == (uninterrupted / "results.json").read_text()
    assert {path.name for path in (tmp_path / "cut/checkpoints").iterdir()} == {
        path.name for path in (uninterrupted / "checkpoints").iterdir()
    }
    assert "has already taken its 10 steps" in train("ckpt=cut").error


def test_going_on_is_going_on_with_the_settings_of_the_run(train, tmp_path, uninterrupted):
    """The line that a preempted run prints, typed as it is, in another shell: no option is given again."""
    stopped = train("run_dir='a place'", *interfere("SendSignal", number="SIGTERM", step=5))
    hint = stopped.stderr.splitlines()[-1].rpartition("resume with: ")[2]
    _, script, again, *callbacks = shlex.split(hint)
    assert script == str(REPOSITORY / "train.py"), hint
    assert all(typed.startswith("+training.callbacks.") for typed in callbacks)
    resumed = train(again, tiny=False)
    assert resumed.status == 0, resumed.stderr
    assert "->" not in resumed.stdout
    assert_same_run(uninterrupted, tmp_path / "a place")
    longer = train(f"ckpt={tmp_path}/a place", "trainer.max_steps=12", tiny=False)
    assert longer.status == 0, longer.stderr
    assert "trainer.max_steps: 10 -> 12" in longer.stdout
    assert "lr_schedule.total_steps: 10 -> 12" in longer.stdout
    assert longer.stdout.count("->") == 2
    assert load(tmp_path / "a place/checkpoints/last.ckpt")["mdm_lightning"]["config"]["optimizer"]["lr"] == 1e-2


@pytest.mark.parametrize("step", [5, 6, 9])
def test_killed_then_resumed(train, tmp_path, uninterrupted, step):
    assert train("run_dir=cut", *interfere("SendSignal", number="SIGKILL", step=step)).status == -signal.SIGKILL
    assert load(tmp_path / "cut/checkpoints/last.ckpt")["global_step"] >= step - 3  # training.save_every
    assert not list((tmp_path / "cut/checkpoints").glob(".*partial"))
    assert train("run_dir=cut", "ckpt=auto").status == 0
    assert_same_run(uninterrupted, tmp_path / "cut")


def test_two_optimisers_in_one_and_weighted_times_resume(train, tmp_path):
    muon = ("optimizer=muon", "timesteps@training.times=bell")
    assert train("run_dir=whole", *muon).status == 0
    assert train("run_dir=cut", *muon, *interfere("SendSignal", number="SIGTERM", step=5)).status == 75
    assert train("ckpt=cut").status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_resumed_with_workers(train, tmp_path, uninterrupted):
    """Loading processes read ahead; what they had read when the run was killed is read again."""
    two = "training.workers=2"
    assert train("run_dir=cut", two, *interfere("SendSignal", number="SIGKILL", step=5)).status == -signal.SIGKILL
    assert train("ckpt=cut", two).status == 0
    assert_same_run(uninterrupted, tmp_path / "cut")


def test_resumed_from_the_best_checkpoint_starts_a_new_folder(train, tmp_path, uninterrupted):
    best = next((uninterrupted / "checkpoints").glob("step*.ckpt"))
    before = (uninterrupted / "checkpoints/last.ckpt").read_bytes()
    assert train(f"ckpt={best}", "trainer.max_steps=12").status == 0
    assert (uninterrupted / "checkpoints/last.ckpt").read_bytes() == before
    assert len(list((tmp_path / "outputs/train").iterdir())) == 1


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["[0]", "[1]", "[0,1]"])
def test_two_ranks_preempted_then_resumed(train, tmp_path, ranks):
    assert train("run_dir=whole", *TWO).status == 0
    stopped = train("run_dir=cut", *TWO, *interfere("SendSignal", number="SIGTERM", step=5, ranks=ranks))
    assert stopped.status == 75, stopped.stderr
    assert load(tmp_path / "cut/checkpoints/last.ckpt")["global_step"] == 6
    assert train("ckpt=cut", *TWO).status == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.ddp
@pytest.mark.slow
def test_killing_one_of_two_ranks_ends_the_run(train, tmp_path):
    outcome = train("run_dir=cut", *TWO, *interfere("SendSignal", number="SIGKILL", step=5, ranks="[1]"))
    assert outcome.status == 1
    assert outcome.error == "error: rank 1 was killed by SIGKILL"
    load(tmp_path / "cut/checkpoints/last.ckpt")


@pytest.mark.ddp
@pytest.mark.slow
def test_an_error_on_one_rank_ends_the_run_with_its_message(train):
    outcome = train(*TWO, *interfere("RaiseOnRank", step=2, rank=1))
    assert outcome.status == 1
    assert "a cosmic ray" in outcome.error


def test_nonfinite_loss_stops_and_overwrites_nothing(train, tmp_path):
    outcome = train("run_dir=bad", "training.log_every=5", *interfere("PoisonWeights", step=6))
    assert outcome.status == 1
    assert "not finite at step 6" in outcome.error
    assert "bad/checkpoints/last.ckpt" in outcome.error
    saved = load(tmp_path / "bad/checkpoints/last.ckpt")
    assert saved["global_step"] == 6
    assert all(torch.isfinite(value).all() for value in saved["current_model_state"].values())


def test_a_finished_run_is_not_trained_again(train, uninterrupted):
    assert "has already taken its 10 steps" in train("ckpt=last", f"run_dir={uninterrupted}", "ckpt=whole").error
