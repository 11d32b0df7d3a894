"""Processes for tests: forked from a server that has imported the package already, which takes milliseconds each."""

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "tests.commands.conftest",
    "mdm_lightning.experiment.train",
    "mdm_lightning.experiment.sweep",
    "mdm_lightning.evaluation.harness",
    "mdm_lightning.evaluation.harness_catalogue",
    "lm_eval.evaluator",
    "peft",
    "tensorboard",
]


def forkserver() -> ForkServerContext:
    """The one server of a test session: what it has imported is settled when it starts its first process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
