"""`python sweep.py ckpt=...`: many schedules and step budgets against each other, in one process or on several ranks.

This module reads the command line, keeps sweeps from getting in each other's way, and has the report built.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import configure_log
from hydra.errors import MissingConfigException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.checkpoint.advice import warn_of_another_model
from mdm_lightning.checkpoint.find import RUNS, find_checkpoint
from mdm_lightning.checkpoint.load import Origin
from mdm_lightning.checkpoint.run import describe
from mdm_lightning.checkpoint.run_scorer import RunScorer
from mdm_lightning.checkpoint.stored_config import trusting
from mdm_lightning.commands.command import ERROR_FILE, held
from mdm_lightning.commands.devices import join_ranks, local_ranks, ranks_exist
from mdm_lightning.commands.evaluate import build_evaluations
from mdm_lightning.commands.launch import launch_ranks
from mdm_lightning.commands.options.command_line import (
    Flags,
    first_values,
    line,
    override,
    parse,
    read_flags,
    same_files,
)
from mdm_lightning.commands.options.nearest import suggestion
from mdm_lightning.commands.options.unread import check_options
from mdm_lightning.commands.program import typed, typed_path
from mdm_lightning.commands.subject import choose_origin, find_origin, needs_checkpoint, pin_scorer
from mdm_lightning.commands.sweep.compositions import Compositions
from mdm_lightning.commands.sweep.jobs import in_this_process, left_to_hydra
from mdm_lightning.commands.sweep.plan import SweepPlan
from mdm_lightning.commands.sweep.run import SweepRun, refuse_metric
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.files import to_json, write_atomically
from mdm_lightning.report.build import build_report
from mdm_lightning.report.records import SWEEP, Sweep, load_json
from mdm_lightning.training.dashboards import TensorBoard

# What all cells of a folder must agree on, where no axis changes it. Schedules and step budgets are the cells' own.
AGREED = (
    "evaluation",
    "scorer",
    "estimator",
    "data",
    "seed",
    "prompt",
    "suffix",
    "count",
    "order",
    "tokens",
    "eos",
    "cache",
)

# Of a sampler, what has a group or an axis of its own.
OF_THEIR_OWN = {"schedule", "count", "order", "tokens", "eos", "cache", "steps"}


def sweep(arguments: Sequence[str], conf: Path) -> None:
    """Runs the sweep that a command line describes, or builds a report (``report=FOLDER``) of one that has run.

    Args:
        arguments: the command line without the program.
        conf: folder of the configuration.

    Raises:
        UserError: the command line does not describe a sweep, the folder belongs to another one, or cells failed.
    """
    folder = next((a.removeprefix("report=") for a in arguments if a.startswith("report=")), None)
    if folder is not None:
        _print(build_report(Path(folder)))
        return
    flags, overrides = read_flags(arguments, conf, "sweep")
    if flags.show:
        hydra.main(version_base="1.3", config_path=str(conf), config_name="sweep")(_nothing)()
        return
    run = _plan(overrides, flags)
    config, output, ranks = run.config, Path(run.config.sweep.dir), local_ranks(run.config.trainer)
    launched = ERROR_FILE in os.environ
    if ranks_exist() and not launched and not any(o.startswith("sweep.dir=") for o in overrides):
        raise UserError("under torchrun and srun give sweep.dir=FOLDER, so that all processes agree on it")
    if ranks > 1 and not ranks_exist():
        if not in_this_process(config.hydra):
            raise UserError(
                f"hydra/launcher= runs each cell in a process of its own: leave out trainer.devices={ranks}"
            )
        with held(output, "sweep", "sweep.dir="):
            _register(output, config, run.origin)  # here, where the command is still as it was typed
            launch_ranks(ranks, [*same_files(config.hydra), *map(line, (*run.plan.base, *run.plan.axes))])
        return
    run = replace(run, processes=join_ranks(progress=False))
    if launched or not run.processes.first:
        _run(run)
        return
    with held(output, "sweep", "sweep.dir="):
        _run(run)


def _nothing(config: DictConfig) -> None:
    """Hydra shows what it is asked for before it would come to the job."""


def _plan(overrides: Sequence[str], flags: Flags) -> SweepRun:
    """What to run.

    The denoiser and the folder are pinned in the plan, so that every process and every multirun mean the same.

    Raises:
        UserError: neither ``ckpt=`` nor ``data=`` says where the denoiser comes from, or an option is wrong.
    """
    compositions, parsed = Compositions(flags), parse(overrides)
    base, axes = _divide(parsed)
    config = compositions([line(o) for o in base])
    if config.hydra.runtime.choices["hydra/sweeper"] == "basic" and config.hydra.sweeper.params:
        # Axes that a file gives, which Hydra's own sweeper would read.
        given = {o.get_key_element() for o in parsed}
        params = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items() if key not in given]
        base, axes = _divide([*parse(params), *parsed])
        config = compositions([line(o) for o in base])
    check_options(compositions(first_values([*base, *axes])), overrides)
    _check_baselines(config.sweep.baselines, base, compositions)
    _check_axes(axes, base, compositions)
    _check_choices(config)
    origin = find_origin(config)
    if origin is None:
        raise needs_checkpoint("sweep")
    folder = override("sweep.dir", str(Path(config.sweep.dir).resolve()))
    pinned = parse([choose_origin(origin), *pin_scorer(config), folder])
    base = [*(o for o in base if o.key_or_group not in {pin.key_or_group for pin in pinned}), *pinned]
    config = compositions([line(o) for o in base])
    return SweepRun(SweepPlan(base, axes, config.sweep), config, origin, compositions, flags, Processes())


def _divide(overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Those with one value, and those with several."""
    several = [o.is_sweep_override() for o in overrides]
    base = [o for o, sweeps in zip(overrides, several, strict=True) if not sweeps]
    return base, [o for o, sweeps in zip(overrides, several, strict=True) if sweeps]


def _check_baselines(names: Sequence[str], base: Sequence[Override], compositions: Compositions) -> None:
    """Raises:
    UserError: a schedule by which others are judged does not exist.
    """
    others = [line(o) for o in base if o.key_or_group.split(".")[0] != "schedule"]
    for name in names:
        try:
            compositions([*others, f"schedule={name}"])
        except MissingConfigException as error:
            raise UserError(
                f"sweep.baselines: there is no schedule {name}{suggestion(name, error.options or [])}"
            ) from error


def _check_axes(axes: Sequence[Override], base: Sequence[Override], compositions: Compositions) -> None:
    """Refuses a sweep of which some cells could not have a configuration, before the first of them.

    Raises:
        UserError: an axis has a name that nobody reads, or a value that it cannot have.
    """
    if any(line(axis).startswith("hydra") for axis in axes) or any(o.key_or_group == "hydra/sweeper" for o in base):
        return  # a search: Hydra's own, or an interval
    shared, names = [line(o) for o in base], [axis.get_key_element() for axis in axes]
    values = [list(axis.sweep_string_iterator()) for axis in axes]
    for axis, choices in zip(axes, values, strict=True):
        if len(set(choices)) < len(choices):
            raise UserError(f"{line(axis)} has a value twice: once is enough")
    first = [f"{name}={choices[0]}" for name, choices in zip(names, values, strict=True) if choices]
    for number, (name, choices) in enumerate(zip(names, values, strict=True)):
        for value in choices if number == 0 else choices[1:]:
            cell = [*shared, *first[:number], f"{name}={value}", *first[number + 1 :]]
            check_options(compositions(cell), cell)


def _check_choices(config: DictConfig) -> None:
    """Raises:
    UserError: cells cannot be chosen while the sweep goes on.
    """
    chosen = "sweep.race=true" if config.sweep.race else f"sweep.prune={config.sweep.prune}"
    if (config.sweep.race or config.sweep.prune) and left_to_hydra(config.hydra):
        raise UserError(
            f"{chosen} decides itself which cells come next: leave out what only Hydra's own multirun does "
            "(hydra/launcher=, hydra/sweeper=, hydra.job.chdir= and the like)"
        )
    if config.sweep.race and len(config.evaluation.get("tasks") or ()) > 1:
        raise UserError("sweep.race=true goes by one score: give one evaluation.tasks=, or sweep it: [TASK],[TASK]")


def _run(run: SweepRun) -> None:
    """Evaluates the cells and has the report built."""
    output, hydra = Path(run.config.sweep.dir), run.config.hydra
    hydra.runtime.output_dir = str(output)
    HydraConfig.instance().set_config(run.config)
    configure_log(hydra.job_logging, hydra.verbose)
    with run.processes.together():
        evaluations = build_evaluations(run.first.evaluation)  # what cannot be built fails now, and once
        refuse_metric(evaluations.values(), run.config.sweep.metric)
        if run.processes.first:
            _register(output, run.config, run.origin)
            if run.config.advice is not None:
                warn_of_another_model(run.config.advice, run.origin.name, run.origin.fingerprint)
    run.run()
    if run.processes.first:
        _conclude(output, run.compositions)


def _register(output: Path, config: DictConfig, origin: Origin) -> None:
    """Notes in the folder what its cells have in common, or checks that it is what was noted there.

    Raises:
        UserError: the folder's cells were measured under other conditions.
    """
    agreed: dict[str, Any] = {"checkpoint": origin.fingerprint, "precision": str(config.trainer.precision)}
    for name in AGREED:
        agreed[name] = _plain(config.get(name))
    agreed["sampler"] = {key: _plain(value) for key, value in config.sampler.items() if key not in OF_THEIR_OWN}
    agreed |= {"limit": config.sweep.limit, "full": config.sweep.full}
    if config.scorer is not None and issubclass(get_class(config.scorer._target_), RunScorer):
        scorer = OmegaConf.select(config, "scorer.ckpt")  # None where it is swept
        file = None if scorer is None else find_checkpoint(scorer, RUNS, option="scorer.ckpt")
        agreed["checkpoint of the scorer"] = None if file is None else describe(file).fingerprint
    agreed["race"] = _rules_of_race(config.sweep) if config.sweep.race else None
    path = output / SWEEP
    known = load_json(path) if path.exists() else None
    if known is not None:
        differ = [name for name, value in agreed.items() if known["agreed"].get(name) != value]
        if differ:
            raise UserError(f"{output} holds a sweep with another {' and '.join(differ)}: choose another sweep.dir=")
    command = f"{typed('sweep')} " + shlex.join(sys.argv[1:]) if known is None else known["command"]
    settings = {"checkpoint": origin.name, "step": origin.step, "command": command, "seed": config.seed}
    settings |= {"metric": config.sweep.metric, "limit": config.sweep.limit, "agreed": agreed}
    write_atomically(path, to_json(settings))


def _rules_of_race(settings: DictConfig) -> list[float | None]:
    """What decides which instances the rounds of a race are: its rules, and how many are kept for profiles."""
    profiled = [] if settings.profile is None else [settings.profile.sequences, settings.paths.sequences]
    return [settings.race_first, settings.race_level, *profiled]


def _plain(value: Any) -> Any:
    """A value of the configuration as it was written, without resolving what it refers to."""
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def _print(page: Path) -> None:
    """Prints a report's verdicts and tables, and where it is."""
    print(f"\n{page.with_name('table.md').read_text()}\nReport  {page}", flush=True)


def _typed_again(output: Path) -> str:
    """This command with the folder in which it goes on."""
    others = [argument for argument in sys.argv[1:] if not argument.startswith("sweep.dir=")]
    return typed("sweep", *map(shlex.quote, others), typed_path("sweep.dir", output))


def _conclude(output: Path, compositions: Compositions) -> None:
    """The report of a sweep that has run, which may name whatever this command was told to build.

    Raises:
        UserError: some cells failed.
    """
    board = TensorBoard(str(output))
    modules = {config.schedule._target_.rpartition(".")[0] for config in compositions.composed}
    with trusting(module for module in modules if module.split(".")[0] != "mdm_lightning"):
        _print(build_report(output, lambda name, figure: board.log_figure(name, figure, 0)))
    board.log_text("tables", (output / "table.md").read_text("utf-8"), 0)
    board.finalize("success")
    done = Sweep.load(output)
    if done.failed:
        cell = done.failed[0]
        raise UserError(
            f"{len(done.failed)} of {len(done.cells)} cells failed ({cell.label}, {cell.steps} steps: {cell.error}); "
            f"to try them again: {_typed_again(output)}"
        )
