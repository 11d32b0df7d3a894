"""Whole commands as users type them, each in a process of its own.

The processes are forked from a server that has imported the package already: a command costs half a second instead of
ten, and still has its own interpreter state, signals, working directory and exit status. So are the ranks that it
launches, unless a test asks for new interpreters.
"""

import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdm_lightning.commands.launch import meeting_point
from mdm_lightning.evaluation.sandbox.runner import cores
from tests.commands.ranks import serve
from tests.forkserver import forkserver
from tests.patience import SECONDS

REPOSITORY = Path(__file__).parents[2]

# A model, a corpus and a recipe that train in a second.
TINY = (
    "model=micro",
    "tokenizer=byte",
    "data=files",
    "trainer.accelerator=cpu",
    "trainer.max_steps=10",
    "trainer.enable_progress_bar=false",
    "lr_schedule.warmup_steps=2",
    "optimizer.lr=1e-2",
    "training.global_batch_size=8",
    "training.batch_size=4",
    "training.validate_every=4",
    "training.validation_sequences=10",
    "training.save_every=3",
    "training.log_every=1",
)

# Of a sudoku two entries are missing, which even this model learns to fill in.
TASK = (
    "data=sudoku_4x4",
    "data.clues=14",
    "data.train=2000",
    "data.validation=40",
    "tokenizer=task",
    "model.length=33",
    "trainer.max_steps=200",
    "lr_schedule.warmup_steps=20",
    "training.ema=null",
    "training.global_batch_size=32",
    "training.batch_size=32",
    "training.validate_every=200",
    "training.save_every=200",
    "training.log_every=50",
)


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """What the user sees of an error: exactly one line, and no traceback."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        return lines[0]


def _run(script: str, arguments: list[str], folder: Path, environment: dict[str, str], ranks: int) -> None:
    os.setsid()  # so that the test can signal the whole group, as a terminal does
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(folder / f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a CI that runs in the background has ignored
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # a server's child would start its loaders from servers, too
    serve(ranks, _execute)
    _execute([str(REPOSITORY / script), *arguments], environment)


def _execute(command: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)  # as a new interpreter does
    # After a fork torch makes its pool of threads anew when this is called, which two threads must not do at once.
    torch.set_num_threads(1)
    sys.argv = list(command)
    runpy.run_path(sys.argv[0], run_name="__main__")


class Command:
    """A running command.

    Args:
        interpreters: the ranks that it launches are new interpreters, as outside of tests.
    """

    def __init__(
        self,
        script: str,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        *,
        interpreters: bool = False,
    ) -> None:
        self.folder = folder
        ranks = 0
        if "trainer.devices=2" in arguments:
            skip_on_one_core()
            ranks = 0 if interpreters or "RANK" in environment else 2
        self.process = forkserver().Process(target=_run, args=(script, arguments, folder, environment, ranks))
        self.process.start()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> Outcome:
        self.process.join(SECONDS)
        if self.process.is_alive():
            assert self.process.pid is not None
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
            pytest.fail(f"still running after {SECONDS:.0f} s: {(self.folder / '.stderr').read_text()}")
        status = self.process.exitcode
        assert status is not None
        texts = [(self.folder / f".{name}").read_text(errors="replace") for name in ("stdout", "stderr")]
        return Outcome(status, *texts)


def skip_on_one_core() -> None:
    if cores() < 2:
        pytest.skip("a command refuses more ranks than there are cores")


Start = Callable[..., Command]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Document {number} says: {number * 'to be or not to be, '}. " * 3)
    return folder


def variables(cache: Path) -> dict[str, str]:
    """The environment of a command that nothing has launched."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return inherited | {"MDM_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(tmp_path: Path, cache: Path, corpus: Path) -> Start:
    """Starts ``python train.py`` on the tiny corpus with further arguments, in the test's own folder."""

    def start(
        *arguments: str,
        script: str = "train.py",
        tiny: bool = True,
        environment: Mapping[str, str] | None = None,
        folder: Path = tmp_path,
        **options: Any,
    ) -> Command:
        other_data = any(a.startswith("data=") for a in arguments)
        given = [*TINY, *([] if other_data else [f"data.path={corpus}"])] if tiny else []
        # The last word on a key counts; Hydra itself refuses to be told twice.
        merged = {re.split("=", a, maxsplit=1)[0].lstrip("+"): a for a in [*given, *arguments]}
        return Command(script, list(merged.values()), folder, {**variables(cache), **(environment or {})}, **options)

    return start


@pytest.fixture
def train(start: Start) -> Callable[..., Outcome]:
    """Runs ``python train.py`` to its end."""
    return lambda *arguments, **options: start(*arguments, **options).wait()


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory, cache: Path, corpus: Path) -> Path:
    """The run folder of a model of text."""
    folder = tmp_path_factory.mktemp("text_model")
    arguments = [*TINY, f"data.path={corpus}", "run_dir=run", "training.validation_sequences=null"]
    assert Command("train.py", arguments, folder, variables(cache)).wait().status == 0
    return folder / "run"


@pytest.fixture(scope="session")
def task_model(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The run folder of a model of a task, trained until it solves some of the problems."""
    folder = tmp_path_factory.mktemp("task_model")
    last = {option.split("=")[0]: option for option in [*TINY, *TASK]}
    assert Command("train.py", [*last.values(), "run_dir=run"], folder, variables(cache)).wait().status == 0
    return folder / "run"


class Measuring:
    """Runs ``python evaluate.py`` or ``python sweep.py`` quickly, in the test's own folder."""

    QUICK = (
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "logger=none",
    )

    def __init__(self, script: str, folder: Path, cache: Path) -> None:
        self.script = script
        self.folder = folder
        self.cache = cache

    def start(self, *arguments: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> Command:
        last = {a.split("=")[0]: a for a in (*self.QUICK, *arguments)}
        folder = folder or self.folder
        return Command(self.script, list(last.values()), folder, variables(self.cache) | (environment or {}))

    def __call__(self, *arguments: str) -> Outcome:
        return self.start(*arguments).wait()

    def on_two_ranks(self, *arguments: str) -> list[Outcome]:
        """As torchrun starts them. Arguments should name folders absolutely: each rank is in a folder of its own."""
        meeting = meeting_point()
        world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port)}
        ranks = []
        for rank in range(2):
            folder = self.folder / f"rank{rank}"
            folder.mkdir(exist_ok=True)
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "test"}
            ranks.append(self.start(*arguments, folder=folder, environment=world | own))
        return [rank.wait() for rank in ranks]


@pytest.fixture
def evaluate(tmp_path: Path, cache: Path) -> Measuring:
    return Measuring("evaluate.py", tmp_path, cache)


@pytest.fixture
def sweep(tmp_path: Path, cache: Path) -> Measuring:
    return Measuring("sweep.py", tmp_path, cache)


def interfere(kind: str, **arguments: object) -> list[str]:
    """Arguments that make a callback of tests.commands.interference part of a run."""
    target = f"+training.callbacks.interfere._target_=tests.commands.interference.{kind}"
    return [target, *(f"+training.callbacks.interfere.{name}={value}" for name, value in arguments.items())]


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Every scalar in a run's event files by tag and step, but for those that measure time or memory."""
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {
        tag: {event.step: event.value for event in accumulator.Scalars(tag)}
        for tag in accumulator.Tags()["scalars"]
        if not tag.startswith("throughput/")
    }


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def incident(kind: str, steps: int, **arguments: object) -> list[str]:
    """Arguments that make tests.commands.interference.Incident one of the evaluations, after the others."""
    chosen = {"kind": kind, "steps": steps, "sampler": "${sampler}", **arguments}
    target = "+evaluation.incident._target_=tests.commands.interference.Incident"
    return [target, *(f"+evaluation.incident.{name}={value}" for name, value in chosen.items())]


FINE_TUNING = (
    "tokenizer=bpe",
    "data.length=16",
    "trainer.max_steps=4",
    "trainer.precision=bf16-mixed",
    "lr_schedule=constant",
    "training.ema=null",
    "training.workers=0",
    "sampler.steps=2",
)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    texts = [f"{chr(97 + i % 7)}{chr(97 + i // 7 % 7)}{chr(97 + i // 49)}" for i in range(300)]
    rows = [{"ask": text + " ", "say": text[::-1], "text": text * 9} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Tune = Callable[..., Outcome]


@pytest.fixture
def tune(train, pairs: Path) -> Tune:
    """Fine-tunes on prompts and responses."""

    def tune(model: str, *arguments: str, **options) -> Outcome:
        fields = ("data.prompt_field=ask", "data.response_field=say")
        given = ("model=" + model, "data=files", f"data.path={pairs}", *fields, *FINE_TUNING, *arguments)
        return train(*given, **options)

    return tune
