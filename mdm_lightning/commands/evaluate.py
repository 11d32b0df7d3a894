"""`python evaluate.py ckpt=...`: a checkpoint's numbers, as tables, figures and files. `compare=[...]`: several runs'.

Without a checkpoint: those of the exact denoiser of a distribution that `data=` gives, and of evaluations that need
none.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.callbacks import build_loggers
from mdm_lightning.commands.command import explain
from mdm_lightning.commands.compare import compare_runs
from mdm_lightning.commands.export import choose_layout, export, refuse_occupied
from mdm_lightning.commands.launch import join_ranks, launch_ranks, local_ranks, ranks_exist
from mdm_lightning.commands.options.command_line import override
from mdm_lightning.commands.options.flags import same_command
from mdm_lightning.commands.origin import choose_origin, describe_origin, find_origin, needs_checkpoint
from mdm_lightning.commands.precision import precision_context
from mdm_lightning.commands.results import Results
from mdm_lightning.commands.subject import load_subject
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Evaluation, NoData, NotApplicable, Row, Study, Subject

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> None:
    """Runs the chosen evaluations on a checkpoint, over as many processes as ``trainer`` says.

    Raises:
        UserError: there is no such checkpoint, or it does not fit the request.
    """
    if config.compare is not None:
        compare_runs(config)
        return
    hydra = HydraConfig.get()
    output = Path(hydra.runtime.output_dir)
    evaluations = build_evaluations(config.evaluation)
    if config.export is not None:  # before the work; nothing is written until all processes have come this far
        refuse_occupied(Path(config.export))
    origin = find_origin(config)
    if origin is None:
        _conduct(evaluations, config, output)
        return
    ranks = local_ranks(config.trainer)
    if ranks > 1 and not ranks_exist():
        pinned = choose_origin(origin), override("hydra.run.dir", str(output.resolve()))
        launch_ranks(ranks, same_command(hydra, *pinned), hydra.runtime.cwd)
        return
    processes = join_ranks(progress=config.trainer.enable_progress_bar)
    with processes.together(explain):
        started = time.perf_counter()
        subject = load_subject(
            origin, config.get("data"), config.trainer, Path(config.cache_dir), config.seed, processes
        )
        subject.first = config.evaluation.first
        layout = None if config.export is None else choose_layout(subject.denoiser, origin)  # fails before the work
        results = Results(output, build_loggers(config.logger, None) if processes.first else [], origin.step)
        if processes.first:
            log.info("%s, on %s", describe_origin(origin), subject.device)
            subject = dataclasses.replace(subject, outputs=results)
        try:
            with precision_context(config.trainer, subject.device):
                if evaluations or layout is None:
                    run_evaluations(evaluations, subject, results.add if processes.first else _ignore)
            if layout is not None and processes.first:
                export(subject, layout, origin, results.rows, Path(str(config.export)))
                log.info("written: %s", config.export)
        finally:
            if processes.first:
                _conclude(results, started)


def build_evaluations(config: DictConfig) -> dict[str, Evaluation]:
    """The evaluations in a configuration that also holds what they share."""
    return {
        str(name): instantiate(part) for name, part in config.items() if OmegaConf.is_dict(part) and "_target_" in part
    }


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
            log.log(logging.INFO if isinstance(error, NoData) else logging.DEBUG, "%s is left out: %s", name, error)
    if len(unsuited) == len(evaluations):
        raise unsuited[0] if unsuited else UserError("there is nothing to evaluate: choose evaluation=")


def _conduct(evaluations: Mapping[str, Evaluation], config: DictConfig, output: Path) -> None:
    """Runs evaluations that need no denoiser, in one process.

    Raises:
        UserError: one of them needs a denoiser.
    """
    started = time.perf_counter()
    studies = {name: evaluation for name, evaluation in evaluations.items() if isinstance(evaluation, Study)}
    if len(studies) < len(evaluations) or not studies:
        raise needs_checkpoint("evaluate")
    if not join_ranks(progress=False).first:
        return
    results = Results(output, build_loggers(config.logger, None), step=0)
    for name, evaluation in studies.items():
        for row in evaluation.study(results):
            results.add(name, row)
    _conclude(results, started)


def _conclude(results: Results, started: float) -> None:
    results.close()
    if not results.rows:
        return
    seconds = time.perf_counter() - started
    print("", results.report(), f"\n{results.folder}/results.csv, after {seconds:.1f} s", sep="\n", flush=True)


def _ignore(evaluation: str, row: Row) -> None:
    """What processes other than the first do with their rows, which are the same."""
