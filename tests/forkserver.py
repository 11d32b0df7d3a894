"""Processes for tests: forked from a server that has imported the package already, which takes milliseconds each."""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext

from tests.patience import SECONDS

PRELOADED = [
    "tests.commands.conftest",
    "mdm_lightning.commands.train",
    "mdm_lightning.commands.sweep.sweep",
    "mdm_lightning.evaluation.lm_eval.model",
    "mdm_lightning.evaluation.lm_eval.catalogue",
    "lm_eval.evaluator",
    "peft",
    "tensorboard",
]


def forkserver() -> ForkServerContext:
    """The one server of a test session: what it has imported is settled when it starts its first process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_side_by_side(function: Callable[..., None], arguments: Sequence[tuple]) -> None:
    """Calls a function of a module once with each tuple of arguments, in processes of their own, which must all end
    well."""
    processes = [forkserver().Process(target=function, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    stuck = [process for process in processes if process.is_alive()]
    for process in stuck:
        process.kill()
    assert not stuck, "a process waits for one that has left"
    assert [process.exitcode for process in processes] == [0] * len(processes)
