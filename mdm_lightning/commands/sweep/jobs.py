"""The cells of a sweep as Hydra's own jobs, where a launcher or a sweeper is chosen: joblib, submitit, optuna."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mdm_lightning.commands.command import explain
from mdm_lightning.commands.devices import join_ranks
from mdm_lightning.commands.options.command_line import Flags
from mdm_lightning.commands.subject import find_origin, load_subject, needs_checkpoint
from mdm_lightning.commands.sweep.cell import Combination, axes, run_cell
from mdm_lightning.commands.sweep.progress import SweepProgress
from mdm_lightning.evaluation.base import Subject

OURS = {"new_folders"}  # callbacks of conf/, which have nothing to do in a cell


def left_to_hydra(hydra: HydraConf) -> bool:
    """Whether a configuration asks for what Hydra does of its own with the jobs of a multirun."""
    chosen = hydra.runtime.choices["hydra/launcher"] != "basic" or hydra.runtime.choices["hydra/sweeper"] != "basic"
    surroundings = hydra.job.chdir or hydra.job.env_set or hydra.output_subdir is not None
    return bool(chosen or surroundings or set(hydra.callbacks) - OURS)


def in_this_process(hydra: HydraConf) -> bool:
    """Whether the cells run in this process, by Hydra or not."""
    return hydra.runtime.choices["hydra/launcher"] == "basic"


def run_multirun(overrides: Sequence[str], job: Callable[[DictConfig], float], flags: Flags) -> None:
    """Has Hydra run a job for every cell of a multirun."""
    main = hydra.main(version_base="1.3", config_path=str(flags.conf), config_name=flags.name)(job)
    typed = sys.argv[1:]
    sys.argv[1:] = ["--multirun", *overrides]  # which is all that hydra.main reads
    try:
        main()
    finally:
        sys.argv[1:] = typed


def job_here(subject: Subject, progress: SweepProgress) -> Callable[[DictConfig], float]:
    """The job that evaluates a cell in this process."""

    def job(config: DictConfig) -> float:
        # The first process's, of the cell and of its score: a search need not draw the same numbers on all of them.
        combination = subject.processes.exchange(_combination(config))[0]
        row = run_cell(combination, subject, progress)
        return subject.processes.exchange(_worst() if row is None else row.value)[0]

    return job


def job_elsewhere(config: DictConfig) -> float:
    """The job that evaluates a cell in whichever process a launcher has started."""
    if config.sweep.dir not in _loaded:
        _loaded[config.sweep.dir] = _load(config)
    return job_here(_loaded[config.sweep.dir], SweepProgress(None, hidden=True))(config)


_loaded: dict[str, Subject] = {}  # what such a process has loaded for its first cell, by the sweep's folder


def _load(config: DictConfig) -> Subject:
    processes = join_ranks(progress=False)
    with processes.together(explain):
        origin = find_origin(config)
        if origin is None:
            raise needs_checkpoint("sweep")
        cache = Path(config.cache_dir)
        return load_subject(origin, config.get("data"), config.trainer, cache, config.seed, processes)


def _combination(config: DictConfig) -> Combination:
    """The combination of options that a job is for."""
    known = HydraConfig.get()
    shared = known.job.config.override_dirname.exclude_keys
    return Combination(config, dict(known.runtime.choices), axes(list(known.overrides.task), shared))


def _worst() -> float:
    """What a search is told of a failed cell: optuna's would end at a NaN."""
    maximized = "maximize" in str(HydraConfig.get().sweeper.get("direction"))
    return -math.inf if maximized else math.inf
