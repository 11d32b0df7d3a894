"""`python sweep.py ckpt=...`: many schedules and step budgets against each other, in one process or on several ranks.

Hydra runs the cells (see sweep_cell); this module decides which, keeps sweeps from getting in each other's way, and
builds the report.
"""

import difflib
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.commands.command import ERROR_FILE, explain
from mdm_lightning.commands.evaluate import build_evaluations
from mdm_lightning.commands.folders import held
from mdm_lightning.commands.launch import join_ranks, launch_ranks, local_ranks, ranks_exist
from mdm_lightning.commands.options.command_line import override
from mdm_lightning.commands.options.nearest import suggestion
from mdm_lightning.commands.options.unread import check_options
from mdm_lightning.commands.origin import Oracle, Origin, choose_origin, find_origin, needs_checkpoint
from mdm_lightning.commands.program import typed
from mdm_lightning.commands.sweep.cell import sweep_subject
from mdm_lightning.commands.sweep.plan import SweepPlan, line, parse
from mdm_lightning.commands.sweep.progress import PROGRESS
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Evaluation, Judges, NotApplicable, Prepares, Subject
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.files import to_json, write_atomically
from mdm_lightning.report.build import build_report
from mdm_lightning.report.figures import figures
from mdm_lightning.report.records import SWEEP, Sweep, judging_rows, load_json
from mdm_lightning.training.dashboards import TensorBoard

log = logging.getLogger(__name__)

Main = Callable[[], object]

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
)

# Of a sampler, what has a group or an axis of its own.
OF_THEIR_OWN = {"schedule", "count", "order", "tokens", "eos", "steps"}


def sweep(arguments: Sequence[str], main: Main, conf: Path) -> None:
    """Runs the sweep that a command line describes, or builds a report (``report=FOLDER``) of one that has run.

    Args:
        arguments: the command line without the program.
        main: the Hydra main function of a cell.
        conf: folder of the configuration.

    Raises:
        UserError: the command line does not describe a sweep, the folder belongs to another one, or cells failed.
    """
    folder = next((a.removeprefix("report=") for a in arguments if a.startswith("report=")), None)
    if folder is not None:
        _report(Path(folder))
        return
    overrides = [a for a in arguments if a not in ("-m", "--multirun")]
    if any(a.startswith("-") for a in overrides):  # --help, --cfg job, ...
        main()
        return
    plan, config, origin = _plan(overrides, conf)
    output, ranks = Path(config.sweep.dir).resolve(), local_ranks(config.trainer)
    launched = ERROR_FILE in os.environ
    if ranks_exist() and not launched and not any(o.startswith("sweep.dir=") for o in overrides):
        raise UserError("under torchrun and srun give sweep.dir=FOLDER, so that all processes agree on it")
    if ranks > 1 and not ranks_exist():
        if any(o.key_or_group == "hydra/launcher" for o in plan.base):
            raise UserError(
                f"hydra/launcher= runs each cell in a process of its own: leave out trainer.devices={ranks}"
            )
        with held(output, "sweep", "sweep.dir="):
            _register(output, config, origin)  # here, where the command is still as it was typed
            launch_ranks(ranks, [line(o) for o in (*plan.base, *plan.axes)])
        return
    processes = join_ranks(progress=False)
    if launched or not processes.first:
        _run(plan, config, origin, main, processes)
        return
    with held(output, "sweep", "sweep.dir="):
        _run(plan, config, origin, main, processes)


def _plan(overrides: Sequence[str], conf: Path) -> tuple[SweepPlan, DictConfig, Origin]:
    """What to run, the configuration that all cells share, and where their denoiser comes from.

    The denoiser and the folder are pinned in the plan, so that every process and every multirun mean the same.

    Raises:
        UserError: neither ``ckpt=`` nor ``data=`` says where the denoiser comes from.
    """
    parsed = parse(overrides)
    base = [o for o in parsed if not o.is_sweep_override()]
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("sweep", [line(o) for o in base], return_hydra_config=True)
        check_options(config, overrides)
        _check_baselines(config.sweep.baselines)
        _check_axes([o for o in parsed if o.is_sweep_override()], [line(o) for o in base])
    origin = find_origin(config)
    if origin is None:
        raise needs_checkpoint("sweep")
    config.ckpt = None if isinstance(origin, Oracle) else origin.name
    pinned = parse([choose_origin(origin), override("sweep.dir", str(Path(config.sweep.dir).resolve()))])
    kept = [o for o in base if o.key_or_group not in ("ckpt", "sweep.dir")]
    axes = [o for o in parsed if o.is_sweep_override()]
    return SweepPlan([*kept, *pinned], axes, config.sweep), config, origin


def _check_baselines(names: Sequence[str]) -> None:
    """Raises:
    UserError: a schedule by which others are judged does not exist.
    """
    known = GlobalHydra.instance().config_loader().get_group_options("schedule")
    for name in names:
        if name not in known:
            raise UserError(f"sweep.baselines: there is no schedule {name}{suggestion(name, known)}")


def _check_axes(axes: Sequence[Override], base: Sequence[str]) -> None:
    """Refuses a sweep of which some cells could not have a configuration, before the first of them.

    Raises:
        UserError: an axis has a name that nobody reads, or a value that it cannot have.
    """
    if any(line(axis).startswith("hydra") for axis in axes) or any(o.startswith("hydra/sweeper=") for o in base):
        return  # a search: Hydra's own, or an interval
    names = [axis.get_key_element() for axis in axes]
    values = [list(axis.sweep_string_iterator()) for axis in axes]
    first = [f"{name}={choices[0]}" for name, choices in zip(names, values, strict=True) if choices]
    for number, (name, choices) in enumerate(zip(names, values, strict=True)):
        for value in choices if number == 0 else choices[1:]:
            cell = [*base, *first[:number], f"{name}={value}", *first[number + 1 :]]
            check_options(compose("sweep", cell, return_hydra_config=True), cell)


def _run(plan: SweepPlan, config: DictConfig, origin: Origin, main: Main, processes: Processes) -> None:
    output = Path(config.sweep.dir).resolve()
    with processes.together():
        evaluations = build_evaluations(config.evaluation)  # what cannot be built fails now, and once
        refuse_metric(evaluations.values(), config.sweep.metric)
        if processes.first:
            _register(output, config, origin)
    in_this_process = "BasicLauncher" in config.hydra.launcher._target_
    if in_this_process:
        subject = sweep_subject(config)
        if not any(axis.key_or_group.startswith(("evaluation", "scorer")) for axis in plan.axes):
            with processes.together(explain):  # and so does what cannot be had
                suited = prepare_evaluations(evaluations.values(), subject)
                refuse_metric(suited, config.sweep.metric)
    grid = plan.grid()
    if processes.first and in_this_process and config.trainer.enable_progress_bar:
        PROGRESS.start(plan.cells(grid))
    try:
        _multirun(grid, plan, main)
        if config.sweep.refine:
            refined = processes.exchange(_refinement(plan, config, output) if processes.first else None)[0] or []
            PROGRESS.grow(plan.cells(refined) or 0)
            _multirun(refined, plan, main)
    finally:
        PROGRESS.close()
    if processes.first:
        _conclude(output)


def prepare_evaluations(evaluations: Iterable[Evaluation], subject: Subject) -> list[Evaluation]:
    """Those that suit the subject, with what they need.

    Raises:
        NotApplicable: none does.
        UserError: something that one of them needs cannot be had.
    """
    suited, unsuited = [], []
    for evaluation in evaluations:
        try:
            if isinstance(evaluation, Prepares):
                evaluation.prepare(subject)
            suited.append(evaluation)
        except NotApplicable as error:
            unsuited.append(error)
    if unsuited and not suited:
        raise unsuited[0]
    return suited


def refuse_metric(evaluations: Iterable[Evaluation], metric: str | None) -> None:
    """Raises:
    UserError: none of the evaluations has this metric, or it does not say which way is better; nothing where one of
        them does not know its metrics beforehand.
    """
    known = [evaluation.judging if isinstance(evaluation, Judges) else None for evaluation in evaluations]
    if metric is None or None in known:
        return
    names = [name for part in known for name in part or ()]
    if metric not in names:
        near = difflib.get_close_matches(metric, names, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"sweep.metric={metric} does not judge this sweep's cells (here: {', '.join(names)}){meant}")


def _multirun(runs: Sequence[Sequence[str]], plan: SweepPlan, main: Main) -> None:
    for run in runs:
        sys.argv[1:] = ["--multirun", *run, plan.exclude_keys()]
        main()


def _refinement(plan: SweepPlan, config: DictConfig, output: Path) -> list[list[str]]:
    """The best schedules of the grid per step budget and task, over all other axes, and what to run for them."""
    scores: dict[tuple[int | None, str | None], dict[tuple[float, float], float]] = {}
    for cell in Sweep.load(output).finished:
        for row in judging_rows(cell.rows, plan.settings.metric):
            budget = scores.setdefault((cell.steps, row.task), {})
            if cell.stage != "grid" or cell.alpha is None or cell.beta is None or math.isnan(row.value):
                continue
            score = row.value if row.better == "higher" else -row.value
            pair = (cell.alpha, cell.beta)
            budget[pair] = max(budget.get(pair, score), score)
    shortlist: dict[int | None, list[tuple[float, float]]] = {}
    for (steps, _), pairs in scores.items():
        chosen = shortlist.setdefault(steps, [])
        best = sorted(pairs, key=lambda pair: -pairs[pair])[: plan.settings.refine]
        chosen += [pair for pair in best if pair not in chosen]
    first, size = plan.settings.limit, plan.settings.full
    if size is None and sweep_subject(config).task is None:
        size = 10 * first  # of texts to generate there is no end
    return plan.refinement(shortlist, first, size)


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


def _plain(value: Any) -> Any:
    """A value of the configuration as it was written, without resolving what it refers to."""
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def _report(folder: Path) -> None:
    """Builds the report, and prints the verdicts and the table."""
    page = build_report(folder)
    print(f"\n{(folder / 'table.md').read_text()}\nReport  {page}", flush=True)


def _conclude(output: Path) -> None:
    """The report of a sweep that has run.

    Raises:
        UserError: some cells failed.
    """
    _report(output)
    done = Sweep.load(output)
    board = TensorBoard(str(output))
    for name, figure in figures(done).items():
        board.log_figure(name, figure, 0)
    board.log_text("tables", (output / "table.md").read_text("utf-8"), 0)
    board.finalize("success")
    if done.failed:
        cell = done.failed[0]
        raise UserError(
            f"{len(done.failed)} of {len(done.cells)} cells failed ({cell.label}, {cell.steps} steps: {cell.error}); "
            f"the same command with sweep.dir={output} tries them again"
        )
