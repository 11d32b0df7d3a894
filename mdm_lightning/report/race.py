"""What is kept of the races of a sweep: who left when, and the scores of several rounds as one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdm_lightning.data.source import digest
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row
from mdm_lightning.evaluation.statistics import standard_error
from mdm_lightning.files import from_json, to_json, write_atomically

RACES = "races"


RacedColumn = tuple[Sequence[tuple[str, str]], int | None, bool]
"""What the cells of a race have in common: axes other than the schedule, step budget, whether it is the most."""


@dataclass(frozen=True)
class RaceRecord:
    """A race that has been run to its end, of the cells of a column.

    Attributes:
        others: the axes other than schedule and step budget.
        steps: the step budget.
        bound: the step budget is the most that the sampler may take.
        instances: the most that a schedule could be measured on, before the confirmation.
        left: how many instances a schedule was measured on when it left, significantly behind the leader, by label.
        winner: label of the schedule that led at the end.
        level: probability at which the best of the column left, at most.
    """

    others: Sequence[tuple[str, str]]
    steps: int | None
    bound: bool
    instances: int
    left: Mapping[str, int]
    winner: str
    level: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple((str(axis), str(value)) for axis, value in self.others))

    @property
    def column(self) -> RacedColumn:
        return self.others, self.steps, self.bound

    def write(self, folder: Path) -> None:
        """Writes the record into a sweep folder, whole or not at all."""
        path = race_path(folder, self.column)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(asdict(self)))


def race_path(folder: Path, column: RacedColumn) -> Path:
    """Where the record of a race lies in a sweep folder."""
    return folder / RACES / f"{digest(column)}.json"


def read_races(folder: Path) -> list[RaceRecord]:
    """The races of a sweep folder.

    Raises:
        UserError: a file is corrupt.
    """
    found = []
    for path in sorted((folder / RACES).glob("*.json")):
        try:
            content: Any = from_json(path.read_text("utf-8"))
            found.append(RaceRecord(**content))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} does not describe a race ({error}); remove it and run the sweep again") from error
    return found


def joined(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of a cell that was measured in several rounds, as if it had been in one: those with a score for each
    instance, and predictions, which are the same in every round. What else there is cannot be pooled, and is left
    out.

    Args:
        rounds: the rows of each, in the order of the instances.
    """
    rows = []
    for number, row in enumerate(rounds[0]):
        parts = [own[number] for own in rounds if number < len(own) and own[number].metric == row.metric]
        listed = [part.scores for part in parts if part.scores is not None]
        if len(listed) == len(rounds):
            scores = [score for own in listed for score in own]
            mean = float(np.mean(scores))
            rows.append(row._replace(value=mean, stderr=standard_error(scores), n=len(scores), scores=scores))
        elif all(part.value == row.value for part in parts):
            rows.append(row)
    return rows
