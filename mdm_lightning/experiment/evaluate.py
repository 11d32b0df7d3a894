"""`python evaluate.py ckpt=...`: a checkpoint's numbers, as tables, figures and files."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Evaluation, NotApplicable, Row, Subject
from mdm_lightning.experiment.callbacks import build_loggers
from mdm_lightning.experiment.command import explain
from mdm_lightning.experiment.launch import join_ranks, launch_ranks, local_ranks, ranks_exist
from mdm_lightning.experiment.results import Results
from mdm_lightning.experiment.runs import RUNS, describe, find_checkpoint
from mdm_lightning.experiment.subject import load_subject, precision_context

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> None:
    """Runs the chosen evaluations on a checkpoint, over as many processes as ``trainer`` says.

    Raises:
        UserError: there is no such checkpoint, or it does not fit the request.
    """
    if config.ckpt is None:
        raise UserError("evaluate.py needs a checkpoint: ckpt=last, ckpt=RUN_FOLDER or ckpt=FILE.ckpt")
    hydra = HydraConfig.get()
    output = Path(hydra.runtime.output_dir)
    run = describe(find_checkpoint(config.ckpt, RUNS))
    evaluations = build_evaluations(config.evaluation)
    ranks = local_ranks(config.trainer)
    if ranks > 1 and not ranks_exist():
        others = [override for override in hydra.overrides.task if not override.startswith("ckpt=")]
        launch_ranks(ranks, [*others, f"ckpt='{run.path}'", f"hydra.run.dir='{output.resolve()}'"])
        return
    processes = join_ranks(progress=config.trainer.enable_progress_bar)
    with processes.together(explain):
        started = time.perf_counter()
        subject = load_subject(
            run, OmegaConf.select(config, "data"), config.trainer, Path(config.cache_dir), config.seed, processes
        )
        subject.first = config.evaluation.first
        results = Results(output, build_loggers(config.logger, None) if processes.first else [], run.step)
        if processes.first:
            log.info("%s at step %s, on %s", run.path, f"{run.step:,}", subject.device)
            subject = dataclasses.replace(subject, outputs=results)
        try:
            with precision_context(config.trainer, subject.device):
                run_evaluations(evaluations, subject, results.add if processes.first else _ignore)
        finally:
            if processes.first and results.rows:
                seconds = time.perf_counter() - started
                print("", results.report(), f"\n{output}/results.csv, after {seconds:.1f} s", sep="\n", flush=True)


def build_evaluations(config: DictConfig) -> dict[str, Evaluation]:
    """The evaluations in a configuration that also holds what they share."""
    return {str(name): instantiate(part) for name, part in config.items() if "_target_" in _mapping(part)}


def run_evaluations(evaluations: Mapping[str, Evaluation], subject: Subject, add: Callable[[str, Row], None]) -> None:
    """Runs one evaluation after the other; those that do not suit the data are left out, unless all are.

    Args:
        add: receives every row as soon as it is there, with the name of its evaluation.

    Raises:
        NotApplicable: no evaluation suits the data.
    """
    unsuited = []
    for name, evaluation in evaluations.items():
        try:
            for row in evaluation(subject):
                add(name, row)
        except NotApplicable as error:
            unsuited.append(error)
            log.debug("%s left out: %s", name, error)
    if len(unsuited) == len(evaluations):
        raise unsuited[0] if unsuited else UserError("there is nothing to evaluate: choose evaluation=")


def _ignore(evaluation: str, row: Row) -> None:
    """What processes other than the first do with their rows, which are the same."""


def _mapping(part: object) -> Mapping[object, object]:
    return part if isinstance(part, DictConfig) else {}
