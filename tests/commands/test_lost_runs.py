"""What may happen to a run folder, and what must not: two trainings in it, a run that is trained over."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import REPOSITORY, incident, interfere
from tests.forkserver import forkserver
from tests.patience import SECONDS, wait_until


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".log"}


def test_nothing_is_trained_over_a_run(train, text_model):
    before = contents(text_model)
    best = next((text_model / "checkpoints").glob("step*.ckpt"))
    for arguments in ([], [f"ckpt={best}"], [f"ckpt={best}", "trainer.max_steps=30"]):
        error = train(f"run_dir={text_model}", *arguments).error
        assert "holds a run" in error or "has already taken its" in error
        if not arguments or "trainer.max_steps=30" in arguments:
            assert "ckpt=auto" in error
            assert "another run_dir=" in error
    assert contents(text_model).items() >= before.items()


def test_one_training_at_a_time(start, train, tmp_path):
    held = start("run_dir=run", *interfere("Hold", step=5, begun=tmp_path / "begun", until=tmp_path / "never"))
    wait_until((tmp_path / "begun").exists, "step 5")
    (tmp_path / "elsewhere").mkdir()
    second = start("run_dir=../run", "ckpt=auto", folder=tmp_path / "elsewhere").wait()
    assert second.status == 1
    assert "another training is running in" in second.error
    assert "another run_dir=" in second.error
    held.signal(signal.SIGKILL)
    assert held.wait().status == -signal.SIGKILL
    (tmp_path / "run/checkpoints/.last.ckpt.1.partial").touch()  # as if it had been killed while it saved
    assert train("run_dir=run", "ckpt=auto").status == 0  # the lock of a process that is no more holds nobody up
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


RANK = """
import os, pathlib, sys, time
from mdm_lightning.stopping import prepare_to_stop
prepare_to_stop()
folder = pathlib.Path(sys.argv[1])
(folder / f"{os.environ['RANK']}.tmp").write_text(str(os.getpid()))
(folder / f"{os.environ['RANK']}.tmp").rename(folder / os.environ["RANK"])
while True:
    time.sleep(1)
"""


def _launch(script: str, folder: str) -> None:
    from mdm_lightning.commands.launch import launch_ranks

    sys.argv = [script]
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    launch_ranks(2, [folder])


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes live")
def test_ranks_die_with_the_process_that_launched_them(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    launcher = forkserver().Process(target=_launch, args=(str(script), str(tmp_path)))
    launcher.start()
    wait_until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(), "two ranks")
    ranks = [int((tmp_path / rank).read_text()) for rank in "01"]
    assert all(_is_alive(rank) for rank in ranks)
    launcher.kill()
    launcher.join(SECONDS)
    wait_until(lambda: not any(_is_alive(rank) for rank in ranks), "the end of the ranks")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "sweep.py"])
@pytest.mark.parametrize(
    ("name", "status", "line"), [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "interrupted")]
)
def test_a_signal_while_a_command_imports(tmp_path, script, name, status, line):
    """Hydra, the first that is imported, is a module that sends the signal."""
    (tmp_path / "hydra.py").write_text(
        f"import os, signal, time\nos.kill(os.getpid(), signal.{name})\ntime.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    command = [sys.executable, "-c", f"import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
               f"runpy.run_path({str(REPOSITORY / script)!r}, run_name='__main__')"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (status, [line])


@pytest.mark.parametrize(
    ("name", "hook", "status", "line"),
    [
        ("SIGTERM", "setup", 143, "stopped by SIGTERM"),
        ("SIGUSR1", "setup", 138, "stopped by SIGUSR1"),
        ("SIGINT", "setup", 130, "interrupted"),
        ("SIGTERM", "on_fit_start", 143, "stopped by SIGTERM"),
        ("SIGINT", "on_fit_start", 130, "interrupted"),
    ],
)
def test_a_signal_before_training(train, tmp_path, name, hook, status, line):
    outcome = train(*interfere("SignalIn", number=name, hook=hook))
    assert (outcome.status, outcome.stderr.splitlines()[-1]) == (status, line), outcome.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_after_training(train, tmp_path, name, status):
    """The state is saved; what is missing are the results, and going on writes them."""
    stopped = train("run_dir=run", *interfere("SignalIn", number=name, hook="on_fit_end"))
    assert stopped.status == status, stopped.stderr
    assert not (tmp_path / "run/results.json").exists()
    assert train("ckpt=run", "trainer.accelerator=cpu", tiny=False).status == 0
    assert (tmp_path / "run/results.json").exists()


def test_a_terminated_evaluation_says_so(evaluate, text_model):
    outcome = evaluate(f"ckpt={text_model}", "evaluation=likelihood", "sampler.steps=3", *incident("terminate", 3))
    assert (outcome.status, outcome.stderr.splitlines()[-1]) == (143, "stopped by SIGTERM")


def test_failures_leave_no_folder(train, evaluate, sweep, tmp_path, text_model):
    assert train("-m", "optimizer.lr=-1,-2").status == 1
    assert evaluate(f"ckpt={text_model}", "evaluation=task").status == 1
    assert sweep(f"ckpt={text_model}", "evaluation=task", "sampler.steps=2").status == 1
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "mine").mkdir()  # a folder that was there stays
    assert train("model.heads=5", "run_dir=mine").status == 1
    assert (tmp_path / "mine").exists()
    (tmp_path / "mine/notes.txt").touch()
    outcome = train(*interfere("SendSignal", number="SIGKILL", step=0), "run_dir=mine/run")
    assert outcome.status == -signal.SIGKILL
    assert train("run_dir=mine/run", "ckpt=auto", "trainer.max_steps=4").status == 0
    assert (tmp_path / "mine/notes.txt").exists()


def test_a_first_step_that_fails_leaves_nothing_to_be_refused_over(train, tmp_path):
    assert train("run_dir=run", *interfere("RaiseOnRank", step=0, rank=0)).status == 1
    assert not (tmp_path / "run").exists()
