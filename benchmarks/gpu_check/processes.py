"""Whole commands on the device: replicated and sharded training, resuming, a sweep. Equal to the plain run, or how far.

Each command is a process forked before the device was touched, so that nothing has to be imported again.
"""

import json
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

import torch

from gpu_check.report import Report

REPOSITORY = Path(__file__).parents[2]
STEPS, STOPPED_AT = 12, 6

SETTINGS = (
    "model=micro", "tokenizer=byte", "data=files", "trainer.enable_progress_bar=false",
    "lr_schedule=constant", "lr_schedule.warmup_steps=2",
    "training.global_batch_size=8", "training.batch_size=8", "training.save_every=6",
    "training.log_every=6", "training.validation_sequences=16", "training.samples=0",
)  # fmt: skip


def run(report: Report, device: torch.device, tiny: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        for number in range(40):
            (folder / f"corpus/{number}.txt").write_text(f"Document {number}: {number * 'to be or not to be, '}.\n" * 3)
        accelerator = f"trainer.accelerator={'cpu' if device.type == 'cpu' else 'gpu'}"
        common = (*SETTINGS, f"data.path={folder}/corpus", accelerator, f"cache_dir={folder}/cache")
        _training(report, folder, common)
        _sweep(report, folder, accelerator, folder / "cache")


def _training(report: Report, folder: Path, common: tuple[str, ...]) -> None:
    plain = _trained(folder, "plain", *common)
    report.row("plain run", s=plain.seconds, validation_loss=plain.loss)
    for strategy in ("ddp", "fsdp"):
        other = _trained(folder, strategy, *common, f"trainer={strategy}", "trainer.devices=1")
        report.row(
            f"trainer={strategy}, one process", s=other.seconds, validation_loss=other.loss,
            difference_from_the_plain_run=abs(other.loss - plain.loss),
        )  # fmt: skip
    _command(folder, "train.py", *common, "run_dir=cut", f"trainer.max_steps={STOPPED_AT}")
    resumed = _trained(folder, "cut", *common, "ckpt=auto")
    report.row(
        f"stopped after {STOPPED_AT} steps and resumed", s=resumed.seconds, validation_loss=resumed.loss,
        difference_from_the_plain_run=abs(resumed.loss - plain.loss),
    )  # fmt: skip


def _sweep(report: Report, folder: Path, accelerator: str, cache: Path) -> None:
    grid = ("schedule.alpha=0.5,0.9", "schedule.beta=0.3", "sampler.steps=2,4,8", "sweep.baselines=[]")
    task = ("evaluation=generation", "evaluation.sequences=8", "logger=none")
    taken = _command(
        folder, "sweep.py", "ckpt=plain", *grid, *task, accelerator, "trainer.enable_progress_bar=false",
        f"cache_dir={cache}", "sweep.dir=sweep",
    )  # fmt: skip
    cells = len(list((folder / "sweep/cells").glob("*.json")))
    report.row("sweep", s=taken, cells=cells)


class _Run:
    def __init__(self, seconds: float, folder: Path) -> None:
        self.seconds = seconds
        self.loss: float = json.loads((folder / "results.json").read_text())["metrics"]["val/loss"]


def _trained(folder: Path, name: str, *arguments: str) -> _Run:
    taken = _command(folder, "train.py", *arguments, f"run_dir={name}", f"trainer.max_steps={STEPS}")
    return _Run(taken, folder / name)


def _command(folder: Path, script: str, *arguments: str) -> float:
    """Seconds that a command takes in ``folder``.

    Raises:
        RuntimeError: it failed; with the last line that it wrote.
    """
    # The last word on a key counts; Hydra itself refuses to be told twice.
    last = {argument.partition("=")[0]: argument for argument in arguments}
    output = folder / "output.txt"
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(script, list(last.values()), folder, output)
    )
    started = time.perf_counter()
    process.start()
    process.join()
    if process.exitcode != 0:
        lines = output.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise RuntimeError(f"{script} {' '.join(arguments[-2:])}: {lines[-1]}")
    return time.perf_counter() - started


def _run(script: str, arguments: list[str], folder: Path, output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.chdir(folder)
    sys.argv = [str(REPOSITORY / script), *arguments]
    sys.path.insert(0, str(REPOSITORY))
    runpy.run_path(sys.argv[0], run_name="__main__")
