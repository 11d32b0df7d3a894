"""What a sweep leaves behind: one JSON file per cell, and one that says what was asked for.

A cell is one evaluation under one combination of the swept options. Its file is whole or absent, so that a sweep that
is killed loses at most the cell it was working on.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.files import from_json, to_json, write_atomically
from mdm_lightning.report.race import RaceRecord, joined, read_races

SWEEP = "sweep.json"
CELLS = "cells"
NFE = "forward_passes"  # the metric that counts the denoiser's passes per sequence
# Metrics that are known before anything is generated, in nats: the less the better.
PREDICTED_GAP = "predicted_gap"  # of the loss profile, per token
PREDICTED_COST = "predicted_cost"  # of another profile
PREDICTIONS = (PREDICTED_GAP, PREDICTED_COST)
PREDICTOR = "predictor"  # the setting that names the profile

ANY = "any"  # in the place of a schedule that the sampler does not look at

Stage = Literal["grid", "race", "refined"]
Status = Literal["finished", "failed", "not measured"]


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep.

    Attributes:
        id: unique within the sweep, all stages together; names the file.
        stage: "grid"; "race" for a round of a race in its place; or "refined" for the shortlist, or the winner of a
            race, measured again on fresh instances.
        schedule: name of the sampling schedule's configuration; ``ANY`` if the sampler does not look at it.
        alpha: first parameter of a Beta schedule; None for other schedules.
        beta: second parameter of a Beta schedule; None for other schedules.
        sampler: name of the sampler's configuration.
        steps: step budget; None for a step per masked position.
        axes: the overrides that vary in this sweep, with this cell's values.
        schedule_config: what Hydra builds the schedule from.
        status: "finished", "failed", or "not measured" where a prediction has ruled it out.
        error: one line that says why the cell failed, else None.
        seconds: what the cell took, wall clock.
        rows: what was measured.
        bound: the sampler decides how many steps it takes; ``steps`` is the most.
        first: index of the first instance.

    Raises:
        ValueError: the stage or status is unknown, a failed cell gives no reason, or a row has not one score per unit.
    """

    id: str
    stage: Stage
    schedule: str
    alpha: float | None
    beta: float | None
    sampler: str
    steps: int | None
    axes: Mapping[str, str]
    schedule_config: Mapping[str, Any]
    status: Status
    error: str | None = None
    seconds: float = 0.0
    rows: Sequence[Row] = ()
    bound: bool = False
    first: int = 0

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage) or self.status not in get_args(Status):
            raise ValueError(f"cell {self.id}: unknown stage or status: {self.stage}, {self.status}")
        if (self.status == "failed") != (self.error is not None):
            raise ValueError(f"cell {self.id}: a failed cell has an error, others have none")
        if (self.alpha is None) != (self.beta is None):
            raise ValueError(f"cell {self.id}: alpha and beta go together")
        for row in self.rows:
            if row.scores is not None and len(row.scores) != row.n:
                raise ValueError(f"cell {self.id}: {row.metric} has {len(row.scores)} scores for n = {row.n}")
        object.__setattr__(self, "rows", tuple(row.plain() for row in self.rows))

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def label(self) -> str:
        """The schedule as people write it: ``Beta(0.9, 0.3)``, ``squared sine``, ``polynomial (exponent=3)``."""
        if self.schedule == ANY:
            return "any schedule"
        if self.alpha is not None:
            return f"Beta({self.alpha:g}, {self.beta:g})"
        swept = {key: value for key, value in self.axes.items() if key.startswith("schedule.")}
        parameters = ", ".join(f"{key.removeprefix('schedule.')}={value}" for key, value in sorted(swept.items()))
        name = self.schedule.replace("_", " ")
        return f"{name} ({parameters})" if swept else name

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """The axes other than the schedule and the step budget, sorted: cells are compared where these agree."""
        named = ((key, value) for key, value in self.axes.items() if not _is_schedule_or_steps(key))
        return tuple(sorted(named))

    @property
    def kind(self) -> Hashable:
        """What the cells of all stages and rounds that measure the same have in common."""
        return self.others, self.steps, self.bound, self.label

    def row(self, metric: str, task: str | None = None) -> Row | None:
        """The first row of a metric, of a task if one is given (rows of no task are every task's); None if it was not
        measured."""
        wanted = (None, task)
        return next((row for row in self.rows if row.metric == metric and (task is None or row.task in wanted)), None)

    def write(self, folder: Path) -> Path:
        """Writes the cell's file into a sweep folder, whole or not at all; returns its path."""
        path = cell_path(folder, self.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        content["rows"] = [row._asdict() for row in self.rows]
        write_atomically(path, to_json(content))
        return path

    @classmethod
    def read(cls, path: Path) -> "Cell":
        """The cell of a file.

        Raises:
            UserError: the file does not hold one.
        """
        content = load_json(path)
        try:
            return cls(**{**content, "rows": [Row(**row) for row in content["rows"]]})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not describe a cell ({error}); remove it and run the sweep again") from error


@dataclass(frozen=True)
class Objective:
    """What a sweep is judged by: a metric, which way is better, and the task that it is measured on, if it has several:
    each is judged by itself."""

    metric: str
    better: Literal["higher", "lower"]
    task: str | None = None

    @property
    def name(self) -> str:
        """``exact_match``, or ``exact_match of gsm8k``."""
        return self.metric if self.task is None else f"{self.metric} of {self.task}"

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Sweep:
    """A sweep's cells, and how it was run.

    Attributes:
        settings: what ``sweep.json`` says: checkpoint, command, metric, seed and whatever else.
        cells: in the order of the table: see ``in_order``. The rounds of a race become one cell.
        races: those that have come to their end.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    cells: Sequence[Cell] = ()
    races: Sequence[RaceRecord] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(sorted(_one_per_runner(self.cells), key=in_order)))

    @classmethod
    def load(cls, folder: Path) -> "Sweep":
        """The sweep of a folder.

        Raises:
            UserError: there is no such folder, it holds no sweep or no cell, or a file is corrupt.
        """
        if not (folder / SWEEP).is_file():
            what = "is not a sweep folder: it has no " + SWEEP if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {what}; give the folder that sweep.py printed")
        paths = sorted((folder / CELLS).glob("*.json"))
        if not paths:
            raise UserError(f"{folder / CELLS} holds no cells yet; run the sweep first, or wait for its first cell")
        return cls(load_json(folder / SWEEP), [Cell.read(path) for path in paths], read_races(folder))

    @property
    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.finished]

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.status == "failed"]

    @property
    def unmeasured(self) -> list[Cell]:
        """The cells that a prediction has ruled out, and that nobody has measured since."""
        known = {
            (cell.others, cell.steps, cell.bound, cell.label) for cell in self.cells if cell.rows and cell.finished
        }
        found = [cell for cell in self.cells if cell.status == "not measured"]
        return [cell for cell in found if (cell.others, cell.steps, cell.bound, cell.label) not in known]

    def unusable(self) -> list[tuple[Cell, str]]:
        """The cells that have no place in the tables, and why."""
        unusable, objectives = [(cell, cell.error or "") for cell in self.failed], self.objectives()
        for cell in self.finished:
            rows = [(o.name, row) for o in objectives if (row := cell.row(o.metric, o.task)) is not None]
            if not rows:  # with tasks for an axis, a cell has one of them only
                unusable.append((cell, f"{' and '.join(o.name for o in objectives)} was not measured"))
            unusable += [(cell, f"{name} is {row.value}") for name, row in rows if not math.isfinite(row.value)]
        return unusable

    def objectives(self) -> list[Objective]:
        """For each task, or for all rows where there are none: the metric that ``sweep.json`` names, else the first
        that judges and has scores, else the first that judges. Empty if no cell finished.

        Raises:
            UserError: the named metric was not measured, or no metric says which way is better.
        """
        if not self.finished:
            return []
        rows = [row for cell in self.finished for row in cell.rows]
        name = self.settings.get("metric")
        chosen = judging_rows(rows, name)
        if not chosen:
            known = ", ".join(dict.fromkeys(row.metric for row in rows if _judges(row))) or "none"
            wanted = "no metric judges" if name is None else f"metric={name} does not judge"
            raise UserError(f"{wanted} this sweep's cells; choose an evaluation or metric that does (here: {known})")
        several = len(chosen) > 1
        return [Objective(row.metric, row.better, row.task if several else None) for row in chosen if row.better]


def _one_per_runner(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, of which those that a race measured in several rounds are one."""
    joint: list[Cell] = []
    raced: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        if cell.stage == "race" and cell.finished:
            raced.setdefault(cell.kind, []).append(cell)
        else:
            joint.append(cell)
    for rounds in raced.values():
        first, *later = sorted(rounds, key=lambda cell: cell.first)
        if later:
            rows, seconds = joined([cell.rows for cell in (first, *later)]), sum(cell.seconds for cell in rounds)
            first = replace(first, rows=rows, seconds=seconds)
        joint.append(first)
    return joint


def judging_rows(rows: Sequence[Row], metric: str | None) -> list[Row]:
    """What cells are judged by, for each task one: the named metric, else the first that judges and has scores, else
    the first that judges."""
    judging = [row for row in rows if _judges(row) and metric in (None, row.metric)]
    by_task: dict[str | None, Row] = {}
    for row in sorted(judging, key=lambda row: row.scores is None):
        by_task.setdefault(row.task, row)
    return [by_task[task] for task in dict.fromkeys(row.task for row in judging)]


def _judges(row: Row) -> bool:
    """A metric that says which way is better, and was measured; of a group of tasks, not of each of its parts."""
    return row.better is not None and row.metric not in PREDICTIONS and not row.part


def cell_path(folder: Path, identity: str) -> Path:
    """Where the file of a cell lies in a sweep folder."""
    return folder / CELLS / f"{identity}.json"


def in_order(cell: Cell) -> tuple[Any, ...]:
    """Order of cells: by the other axes, stage, hand-made schedules before Beta pairs, linear first, then steps."""
    shape = (cell.alpha is not None, cell.schedule != "linear", cell.alpha or 0, cell.beta or 0, cell.label)
    return (cell.others, cell.stage, *shape, cell.steps is None, cell.steps or 0, cell.id)


NOT_AT_ALL = 3


def stands_for_linear(cell: Cell) -> int:
    """How well a cell serves as what others are compared with, the less the better: the linear schedule itself, its
    equal Beta(1/2, 1/2), another hand-made schedule, or ``NOT_AT_ALL``."""
    equal = (cell.alpha, cell.beta) == (0.5, 0.5)
    return 0 if cell.schedule == "linear" else 1 if equal else 2 if cell.alpha is None else NOT_AT_ALL


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a sweep.

    Raises:
        UserError: the file is no JSON object.
    """
    try:
        content = from_json(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is corrupt ({error}); remove it and run the sweep again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is corrupt (no JSON object); remove it and run the sweep again")
    return content


def _is_schedule_or_steps(axis: str) -> bool:
    return axis.split(".")[0] == "schedule" or axis.split(".")[-1] == "steps"
