"""Running a sweep: its cells one after the other with one loaded model, then the best of them on fresh instances."""

import difflib
import logging
import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mdm_lightning.checkpoint.load import Origin
from mdm_lightning.commands.command import explain
from mdm_lightning.commands.evaluate import build_evaluations
from mdm_lightning.commands.options.command_line import Flags, first_values, line, parse
from mdm_lightning.commands.subject import load_subject
from mdm_lightning.commands.sweep.candidates import Candidate, by_column, rule_out
from mdm_lightning.commands.sweep.cell import Combination, axes, plan_cell, run_cell
from mdm_lightning.commands.sweep.compositions import Compositions
from mdm_lightning.commands.sweep.jobs import in_this_process, job_elsewhere, job_here, left_to_hydra, run_multirun
from mdm_lightning.commands.sweep.plan import Overrides, SweepPlan, combinations
from mdm_lightning.commands.sweep.predictions import own_instances, predict
from mdm_lightning.commands.sweep.progress import SweepProgress
from mdm_lightning.commands.sweep.race import ColumnRace
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.race import Race
from mdm_lightning.evaluation.base import Evaluation, Judges, NotApplicable, Prepares, Row, Subject
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.report.race import race_path
from mdm_lightning.report.records import Sweep, cell_path, judging_rows
from mdm_lightning.sampling.sampler import Sampler

log = logging.getLogger(__name__)


@dataclass
class SweepRun:
    """A sweep in this process, and in its peers at the same time.

    Attributes:
        plan: which cells there are.
        config: what all cells share.
        origin: where the denoiser comes from.
        compositions: compose the cells.
        flags: with which Hydra composes them where a launcher or a sweeper is chosen.
        processes: this process and its peers.
    """

    plan: SweepPlan
    config: DictConfig
    origin: Origin
    compositions: Compositions
    flags: Flags
    processes: Processes

    @cached_property
    def subject(self) -> Subject:
        with self.processes.together(explain):
            shared, cache = self.config, Path(self.config.cache_dir)
            return load_subject(self.origin, shared.get("data"), shared.trainer, cache, shared.seed, self.processes)

    @cached_property
    def first(self) -> DictConfig:
        """The configuration of a cell: every axis at its first value."""
        return self.compositions(first_values([*self.plan.base, *self.plan.axes]))

    def run(self) -> None:
        """Evaluates all cells that are not finished yet.

        Raises:
            UserError: something that all cells need cannot be had.
        """
        here = in_this_process(self.config.hydra)
        if here and not any(axis.key_or_group.startswith(("evaluation", "scorer")) for axis in self.plan.axes):
            self._prepare()
        grid, settings = self.plan.grid(), self.config.sweep
        if here and not self.plan.searches:
            self._refuse_autoregressive(grid)
        chosen = settings.race or settings.prune  # cells one by one: nobody knows beforehand how many
        shown = self.processes.first and here and self.config.trainer.enable_progress_bar
        with closing(SweepProgress(None if chosen else self.plan.cells(grid), hidden=not shown)) as progress:
            if chosen:
                self._columns(grid, progress)
            else:
                self._run(grid, progress)
            if self.config.sweep.refine:
                refined = self.processes.exchange(self._refinement() if self.processes.first else [])[0]
                progress.grow(self.plan.cells(refined) or 0)
                self._run(refined, progress)

    def _prepare(self) -> None:
        """Fetches what the evaluations need, and finds out what cannot be had, before the first cell."""
        subject = self.subject
        subject.seed, subject.first = self.config.seed, self.config.evaluation.first
        with self.processes.together(explain):
            suited = prepare_evaluations(build_evaluations(self.first.evaluation).values(), subject)
            refuse_metric(suited, self.config.sweep.metric)

    def _refuse_autoregressive(self, grid: Iterable[Overrides]) -> None:
        """Refuses a sweep of an autoregressive model that could generate in none of its cells.

        Raises:
            UserError: all of them have schedules, orders or step budgets that such a model does not have.
        """
        refused: ValueError | None = None
        for cell in (combination for multirun in grid for combination in combinations(multirun)):
            if not self.subject.denoiser.autoregressive:
                return
            config = self.compositions(cell)
            try:
                for evaluation in build_evaluations(config.evaluation).values():
                    if isinstance(sampler := getattr(evaluation, "sampler", None), Sampler):
                        sampler.check_one_by_one(self.subject.length, sampler.steps)
                return
            except ValueError as error:
                refused = error
        if refused is not None:
            why = str(refused).removeprefix("Sampler: ")
            raise UserError(f"no cell of this sweep suits {self.origin.name}: {why} sweep.baselines=[]") from refused

    def _run(self, multiruns: Iterable[Overrides], progress: SweepProgress) -> None:
        for multirun in multiruns:
            shared = [line(override) for override in parse(multirun) if not override.is_sweep_override()]
            hydra = self.compositions(shared).hydra
            if not left_to_hydra(hydra):
                for number, overrides in enumerate(combinations(multirun)):
                    run_cell(self._combination(overrides, number), self.subject, progress)
                continue
            job = job_here(self.subject, progress) if in_this_process(hydra) else job_elsewhere
            run_multirun([*multirun, self.plan.exclude_keys()], job, self.flags)

    def _combination(self, overrides: Overrides, number: int = 0) -> Combination:
        """A cell, composed, with what Hydra's jobs know of themselves."""
        config, varied = self.compositions(overrides), axes(overrides, self.plan.shared())
        job, named = config.hydra.job, dict(varied)
        if config.sweep.stage == "race":
            named["evaluation.first"] = config.evaluation.first
        job.num, job.id = number, str(number)
        job.override_dirname = ",".join(f"{key}={value}" for key, value in sorted(named.items()))
        config.hydra.runtime.output_dir = str(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir)
        HydraConfig.instance().set_config(config)  # what ${hydra:...} refers to, until the next one
        return Combination(config, dict(config.hydra.runtime.choices), varied)

    def _columns(self, grid: Iterable[Overrides], progress: SweepProgress) -> None:
        """Runs the grid column by column: without what predictions rule out, or as races.

        Raises:
            UserError: there is nothing to predict or to race with, or the evaluation cannot be raced.
        """
        settings, folder = self.plan.settings, Path(self.plan.settings.dir)
        with self.processes.together(explain):
            columns = by_column(self._candidate(cell) for multirun in grid for cell in combinations(multirun))
        if settings.prune is not None:
            self._warn_of_overlap()
            left_out = rule_out(columns, settings.keep)
            for candidate in left_out if self.processes.first else ():
                if not cell_path(folder, candidate.cell.id).exists():
                    candidate.cell.write(folder)
            columns = [[candidate for candidate in column if candidate not in left_out] for column in columns]
        if settings.race and all(len(column) == 1 for column in columns):
            raise UserError("sweep.race=true: there is one schedule per step budget here, and nothing to race with")

        def measure(overrides: Overrides) -> Row | None:
            return run_cell(self._combination(overrides), self.subject, progress)

        for column in columns:
            if not settings.race or len(column) == 1:
                for candidate in column:
                    measure(candidate.overrides)
                continue
            rules = Race(settings.limit, settings.race_first, self._second_stage, settings.race_level)
            available = rules.instances + rules.confirm if self._available is None else self._available
            cell = column[0].cell
            if self.processes.first:  # what is known of a race of fewer schedules holds no longer
                race_path(folder, (cell.others, cell.steps, cell.bound)).unlink(missing_ok=True)
            race = ColumnRace(rules, self.config.evaluation.first, available, measure)(column)
            if race is not None and self.processes.first:
                race.write(folder)

    def _candidate(self, overrides: Overrides) -> Candidate:
        """A cell, with its predictions if they are to decide on it."""
        cell, config = plan_cell(self._combination(overrides))
        rows = predict(config, self.subject) if config.sweep.prune is not None else ()
        return Candidate(overrides, replace(cell, rows=rows))

    @cached_property
    def _available(self) -> int | None:
        """Instances from the first on that cells may be measured on; None where there is no end of them.

        Raises:
            UserError: there are none.
        """
        kinds = (TaskAccuracy, Likelihood) if self.subject.task is not None else Likelihood
        if not any(isinstance(e, kinds) for e in build_evaluations(self.first.evaluation).values()):
            return None
        left = self.subject.starting_at(self.config.evaluation.first).validation_size(None)
        # What has been profiled is nothing to be measured on, if there is enough else.
        others = left - self._profiled
        return others if others > self.plan.settings.limit else left

    @cached_property
    def _profiled(self) -> int:
        """How many validation sequences, the last ones, are profiled at most."""
        settings = self.plan.settings
        if settings.profile is None:
            return 0
        return max(len(own_instances(self.subject, known.sequences)) for known in (settings.profile, settings.paths))

    def _warn_of_overlap(self) -> None:
        """Says so where what predictions rule out is judged by the very sequences that they come from."""
        settings = self.plan.settings
        if self._available is None or not self.processes.first:
            return
        left = len(self.subject.data.validation) - self.config.evaluation.first
        measured = settings.limit + (self._second_stage if settings.race or settings.refine else 0)
        if min(measured, left) > left - self._profiled:
            log.warning(
                "data=%s has too few validation sequences to measure on others than sweep.prune=%s looks at: lower "
                "sweep.limit=, sweep.full= or sweep.profile.sequences=, or ask for a larger data.validation=",
                self.subject.data.name,
                settings.prune,
            )

    @property
    def _second_stage(self) -> int:
        """Fresh instances for the shortlist or the winner of a race."""
        settings = self.plan.settings
        if settings.full is not None:
            return settings.full
        if self._available is None:
            return 10 * settings.limit  # of texts to generate there is no end
        left = self._available - settings.limit
        if left < 2:
            return settings.limit
        return left if self.subject.task is not None else min(left, 10 * settings.limit)

    def _refinement(self) -> list[Overrides]:
        """The best schedules of the grid per step budget and task, over all other axes, and what to run for them."""
        settings = self.plan.settings
        scores: dict[tuple[int | None, str | None], dict[tuple[float, float], float]] = {}
        for cell in Sweep.load(Path(settings.dir)).finished:
            for row in judging_rows(cell.rows, settings.metric):
                budget = scores.setdefault((cell.steps, row.task), {})
                if cell.stage != "grid" or cell.alpha is None or cell.beta is None or math.isnan(row.value):
                    continue
                score = row.value if row.better == "higher" else -row.value
                pair = (cell.alpha, cell.beta)
                budget[pair] = max(budget.get(pair, score), score)
        shortlist: dict[int | None, list[tuple[float, float]]] = {}
        for (steps, _), pairs in scores.items():
            chosen = shortlist.setdefault(steps, [])
            best = sorted(pairs, key=lambda pair: -pairs[pair])[: settings.refine]
            chosen += [pair for pair in best if pair not in chosen]
        return self.plan.refinement(shortlist, self.config.evaluation.first + settings.limit, self._second_stage)


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
