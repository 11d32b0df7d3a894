"""One cell of a sweep: what the loaded model is worth under one combination of options."""

import logging
import time
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.command import explain
from mdm_lightning.commands.devices import precision_context
from mdm_lightning.commands.evaluate import build_evaluations, run_evaluations
from mdm_lightning.commands.options.command_line import line, parse
from mdm_lightning.commands.sweep.predictions import predict
from mdm_lightning.commands.sweep.progress import SweepProgress
from mdm_lightning.data.source import digest
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.report.records import ANY, Cell, cell_path, judging_rows
from mdm_lightning.sampling.count import AdaptiveCount, RevealCount
from mdm_lightning.training.dashboards import TensorBoard

log = logging.getLogger(__name__)

# Options that do not change a cell's numbers, or that are the same for the whole sweep.
SHARED = {
    "ckpt",
    "cache_dir",
    "data",
    "debug",
    "hydra",
    "logger",
    "published",
    "run_dir",
    "sweep",
    "tokenizer",
    "trainer",
}


@dataclass(frozen=True)
class Combination:
    """One combination of options, composed.

    Attributes:
        config: the configuration.
        choices: what was chosen of each of its groups.
        axes: the overrides that tell the sweep's cells apart, with this cell's values.
    """

    config: DictConfig
    choices: Mapping[str, Any]
    axes: Mapping[str, str]


def axes(overrides: Collection[str], shared: Collection[str]) -> dict[str, str]:
    """Of a cell's overrides those that tell it apart: all but those of options that are shared."""
    values = {o.key_or_group: line(o).partition("=")[2] for o in parse(list(overrides)) if not o.is_hydra_override()}
    return {key: value for key, value in values.items() if key not in shared}


def run_cell(combination: Combination, subject: Subject, progress: SweepProgress | None = None) -> Row | None:
    """Evaluates one cell, writes its file, and returns the row that it is judged by; None if it failed.

    A cell that fails on one process fails on all of them, is recorded with its message, and the sweep goes on. A cell
    that is finished already is not run again.

    Raises:
        NotApplicable: the evaluation does not suit the data, or nothing that it measures is what the sweep is to be
            judged by, so that no cell could succeed.
    """
    started = time.perf_counter()
    planned, config = plan_cell(combination)
    subject.seed, subject.first = config.seed, config.evaluation.first
    folder = Path(config.sweep.dir)
    cell = subject.processes.exchange(_finished(folder, planned.id) if subject.processes.first else None)[0]
    if cell is None:
        rows, error = _evaluate(config, subject)
        status, seconds = "finished" if error is None else "failed", time.perf_counter() - started
        cell = replace(planned, status=status, error=error, seconds=seconds, rows=rows)
        if subject.processes.first:
            cell.write(folder)
            _log(config, cell)
    row = next(iter(judging_rows(cell.rows, config.sweep.metric)), None)
    if row is None and cell.finished and config.sweep.metric is not None:
        names = ", ".join(dict.fromkeys(found.metric for found in judging_rows(cell.rows, None))) or "none"
        raise NotApplicable(f"sweep.metric={config.sweep.metric} does not judge this sweep's cells (here: {names})")
    if progress is not None:
        progress.advance(cell, row)
    return row


def plan_cell(combination: Combination) -> tuple[Cell, DictConfig]:
    """A cell before it is measured, and the configuration with which it is."""
    ignored = ignored_options(combination.config)
    config = neutral(combination.config, ignored)
    schedule = config.schedule
    cell = Cell(
        id=digest(config.sweep.stage, _content(config)),  # of everything that decides its numbers, within a sweep
        stage=config.sweep.stage,
        schedule=ANY if "schedule" in ignored else combination.choices["schedule"],
        alpha=schedule.get("alpha") if "beta" in schedule else None,
        beta=schedule.get("beta"),
        sampler=combination.choices["sampler"],
        steps=config.sampler.steps,
        axes={key: value for key, value in combination.axes.items() if not {key, key.split(".")[0]} & set(ignored)},
        schedule_config=OmegaConf.to_container(schedule, resolve=True),  # pyright: ignore[reportArgumentType]
        status="not measured",
        bound=isinstance(_count(config), AdaptiveCount),
        first=config.evaluation.first,
    )
    return cell, config


def ignored_options(config: DictConfig) -> frozenset[str]:
    """What the cell's sampler does not look at, of the schedule and the step budget; nothing if something else does, as
    ``estimator=k_step``."""
    count = _count(config)
    given = "schedule" in config.sampler  # sampler=advised has one of its own
    read = {"schedule": given and count.reads_schedule, "sampler.steps": count.reads_steps}
    ignored = frozenset(name for name, reads in read.items() if not reads)
    alike = _beside_samplers(config) == _beside_samplers(neutral(config, ignored))
    return ignored if alike else frozenset()


def _count(config: DictConfig) -> RevealCount:
    """The count of the cell's sampler, be it made of parts or whole."""
    return instantiate(config.sampler.count) if "count" in config.sampler else instantiate(config.sampler).count


def neutral(config: DictConfig, ignored: Collection[str]) -> DictConfig:
    """The configuration with one value for all that is ignored: cells that cannot differ become the same cell."""
    if not ignored:
        return config
    config = deepcopy(config)
    if "schedule" in ignored:
        config.schedule = {"_target_": f"{LinearSchedule.__module__}.{LinearSchedule.__qualname__}"}
    if "sampler.steps" in ignored:
        config.sampler.steps = None
    return config


def _beside_samplers(config: DictConfig) -> Any:
    """What decides the cell's numbers, without the schedule and the samplers."""

    def strip(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: strip(value) for key, value in content.items() if key != "sampler"}
        return [strip(value) for value in content] if isinstance(content, list) else content

    return strip({key: value for key, value in _content(config).items() if key != "schedule"})


def _content(config: DictConfig) -> dict[str, Any]:
    """The configuration without what all cells share."""
    return {
        str(key): OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in config.items()
        if key not in SHARED
    }


def _finished(folder: Path, identity: str) -> Cell | None:
    path = cell_path(folder, identity)
    cell = Cell.read(path) if path.exists() else None
    return cell if cell is not None and cell.finished else None


def _evaluate(config: DictConfig, subject: Subject) -> tuple[list[Row], str | None]:
    """The cell's rows, or one line that says why there are none."""
    rows: list[Row] = []
    try:
        with subject.processes.together(explain), precision_context(config.trainer, subject.device):
            run_evaluations(build_evaluations(config.evaluation), subject, lambda name, row: rows.append(row))
            rows += predict(config, subject)
    except NotApplicable:
        raise
    except Exception as error:  # whatever it is, it must not take the other cells down
        if config.debug:
            log.exception("cell failed")
        return [], explain(error)
    return rows, None


def _log(config: DictConfig, cell: Cell) -> None:
    """A run of its own for each cell, with its options as hyperparameters."""
    options = {"schedule": cell.label, "alpha": cell.alpha, "beta": cell.beta, "steps": cell.steps, **dict(cell.others)}
    hparams = {key: value for key, value in options.items() if value is not None}
    # TensorBoard shows the first few columns: what judges comes first, and of several rows the first counts.
    metrics: dict[str, float] = {}
    for row in sorted(cell.rows, key=lambda row: row.better is None):
        metrics.setdefault(row.tag, row.value)
    for logger in map(instantiate, config.logger.values()):
        if isinstance(logger, TensorBoard):
            named = {f"sweep/{tag}": value for tag, value in metrics.items()}
            logger.log_final(hparams, named, 0, columns={"alpha": 0.0, "beta": 0.0})
        else:
            logger.log_hyperparams(hparams)
            logger.log_metrics(metrics, 0)
        logger.finalize("success" if cell.finished else "failed")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # or the next cell would go on with this run
