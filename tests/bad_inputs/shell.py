"""Whole commands, quickly: each runs in a fork of one process that has imported everything.

What a command costs otherwise is its imports and the reading of the same two dozen YAML files. Apart from that it is as
typed: its own process, working directory, environment, streams and exit status.
"""

import gc
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult

from mdm_lightning.commands.options.unread import check_options
from tests.forkserver import forkserver

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 240
"""Seconds after which a command is said to hang: far more than any takes on a busy machine."""


@dataclass(frozen=True)
class Order:
    """A command to run.

    Attributes:
        script: train, evaluate or sweep.
        arguments: what follows it.
        folder: working directory; the streams are kept in files of the folder above.
        environment: all of it.
        before: called in the command's process before it begins.
        head: standard output is a pipe whose reader has left.
    """

    script: str
    arguments: tuple[str, ...]
    folder: Path
    environment: dict[str, str]
    before: Callable[[], object] | None = None
    head: bool = False


@dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str
    seconds: float = 0.0
    command: str = field(default="", repr=False)


class Shell:
    """Runs one command after the other."""

    def __init__(self) -> None:
        context = forkserver()
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=False)
        self._process.start()

    def __call__(self, order: Order) -> Outcome:
        self._ours.send(order)
        return self._ours.recv()

    def close(self) -> None:
        self._ours.send(None)
        self._process.join(30)


def _serve(orders: Connection) -> None:
    torch.set_num_threads(1)
    _remember_files()
    for name in ("train", "evaluate", "sweep"):
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            check_options(compose(name, ["logger=none"], return_hydra_config=name == "sweep"), [])
    gc.collect()
    gc.freeze()  # forks share what is never looked at again
    while (order := orders.recv()) is not None:
        orders.send(_run(order))


def _remember_files() -> None:
    """Of the two dozen files that all commands share one parse is enough."""
    load, known = FileConfigSource.load_config, {}

    def remembered(self: FileConfigSource, config_path: str) -> ConfigResult:
        key = self.path, config_path
        if key not in known:
            known[key] = load(self, config_path)
        return deepcopy(known[key])

    FileConfigSource.load_config = remembered


def _run(order: Order) -> Outcome:
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        _become(order)
    deadline = time.monotonic() + PATIENCE
    status, finished = 0, 0
    while not finished:
        finished, status = os.waitpid(child, os.WNOHANG)
        if not finished and time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(-1, "", f"still running after {PATIENCE} s")
        time.sleep(0.002)
    texts = [_stream(order, name).read_text(errors="replace") for name in ("stdout", "stderr")]
    return Outcome(os.waitstatus_to_exitcode(status), *texts, seconds=time.perf_counter() - started)


def _stream(order: Order, name: str) -> Path:
    return order.folder.parent / f"{order.folder.name}.{name}"


def _become(order: Order) -> None:
    """Turns this fork into the command; does not return."""
    status = 1
    try:
        os.setsid()
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(_stream(order, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        if order.head:
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.environ.clear()
        os.environ.update(order.environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(order.folder)
        sys.argv = [str(REPOSITORY / f"{order.script}.py"), *order.arguments]
        if order.before is not None:
            order.before()
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
