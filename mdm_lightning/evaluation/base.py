"""What an evaluation is: an object that turns a denoiser and data into tidy rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mdm_lightning.data.source import PreparedData, Task
from mdm_lightning.data.tasks.toy import Distribution
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.evaluation.statistics import standard_error

T = TypeVar("T")

Settings = Mapping[str, str | int | float]


class Row(NamedTuple):
    """One measured number."""

    metric: str
    value: float
    stderr: float | None
    """Standard error of the value; None where there is none to speak of."""
    n: int
    """Independent units (sequences) behind it."""
    settings: Settings
    """How it was measured: protocol, schedule, steps."""
    better: Literal["higher", "lower"] | None = None
    """Which way is better; None for what describes rather than judges."""
    scores: Sequence[float] | None = None
    """The n units' own scores, of which the value is the mean, in the order of the sequences' indices; for pairing."""
    exact: bool = False
    """Computed, not estimated, as by enumeration: the value has no error, and n says what it was computed from."""

    @classmethod
    def of_scores(
        cls, metric: str, scores: ArrayLike, settings: Settings, better: Literal["higher", "lower"] | None = None
    ) -> "Row":
        """The mean over independent units, with its standard error."""
        listed = np.asarray(scores, dtype=np.float64).tolist()
        return cls(metric, float(np.mean(listed)), standard_error(listed), len(listed), settings, better, listed)

    @property
    def task(self) -> str | None:
        """The benchmark that was measured, where an evaluation may measure several."""
        task = self.settings.get("task")
        return None if task is None else str(task)

    @property
    def part(self) -> bool:
        """Whether it is of a part of a group of tasks, which has a row of its own."""
        return "group" in self.settings

    @property
    def tag(self) -> str:
        """The metric, with the task in front: a name for dashboards."""
        return self.metric if self.task is None else f"{self.task}/{self.metric}"

    def plain(self) -> "Row":
        """The row in Python's own numbers, which files take: NumPy's and torch's do not survive JSON."""
        stderr = None if self.stderr is None else float(self.stderr)
        scores = None if self.scores is None else tuple(map(float, self.scores))
        return self._replace(
            value=float(self.value), stderr=stderr, n=int(self.n), settings=dict(self.settings), scores=scores,
            exact=bool(self.exact),
        )  # fmt: skip


class NotApplicable(UserError):
    """An evaluation that makes no sense for the data at hand; skipped when others were asked for as well."""


class NoData(NotApplicable):
    """An evaluation that needs data where none were chosen and none are known."""


class Outputs(Protocol):
    """Where evaluations leave what is not a number. Processes other than the first leave it nowhere."""

    def figure(self, name: str, figure: Figure) -> None:
        """A picture, for the output folder and TensorBoard."""
        ...

    def text(self, name: str, text: str, *, markdown: bool = False) -> None:
        """A text to read, for the screen and TensorBoard, which shows it letter by letter unless it is Markdown."""
        ...

    def file(self, name: str, content: str) -> str:
        """A file for the output folder; returns its path."""
        ...

    def command(self, *options: str, **paths: str) -> str:
        """How to type the evaluation of the same model with other options, so that it works when pasted.

        Args:
            options: as they are typed.
            paths: options that are paths, by name.
        """
        ...


class Nowhere:
    """Discards everything."""

    def figure(self, name: str, figure: Figure) -> None: ...

    def text(self, name: str, text: str, *, markdown: bool = False) -> None: ...

    def file(self, name: str, content: str) -> str:
        return name

    def command(self, *options: str, **paths: str) -> str:
        return " ".join(["evaluate.py", *options, *(f"{name}={path}" for name, path in paths.items())])


@dataclass
class Subject:
    """What is evaluated, and on what.

    Attributes:
        denoiser: in evaluation mode, on its device.
        tokenizer: the one that the denoiser was trained with.
        length: positions per sequence, l.
        prepare: finds the data, or builds them, when an evaluation first asks for them.
        task: the rule that checks responses; None for text.
        prompted: the data's sequences begin with prompts.
        distribution: of the data, where it is small enough to enumerate.
        name: of the checkpoint or the distribution, for people.
        fingerprint: of the checkpoint's contents.
        device: where the denoiser is.
        seed: of everything random.
        first: index of the first instance (validation sequence, generated sample) to use.
        processes: among which batches are shared out.
        outputs: where figures and texts go.
    """

    denoiser: Denoiser
    tokenizer: Tokenizer
    length: int
    prepare: Callable[[], PreparedData]
    task: Task | None = None
    prompted: bool = False
    distribution: Distribution | None = None
    name: str = ""
    fingerprint: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    first: int = 0
    processes: Processes = field(default_factory=Processes)
    outputs: Outputs = field(default_factory=Nowhere)
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def data(self) -> PreparedData:
        return self.prepare()

    def starting_at(self, first: int) -> "Subject":
        """The same, with another first instance; data and what is kept are shared."""
        shared = copy(self)
        shared.__dict__["data"], shared.first = self.data, first
        return shared

    def once(self, key: Hashable, build: Callable[[], T]) -> T:
        """What ``build`` makes, made when it is first asked for: scorers, say, serve all cells of a sweep."""
        if key not in self._kept:
            self._kept[key] = build()
        return self._kept[key]

    def validation_size(self, wanted: int | None) -> int:
        """Number of validation sequences to use: as many as are wanted and there are, from the first on.

        Raises:
            UserError: there are none.
        """
        left = len(self.data.validation) - self.first
        if left < 1:
            raise UserError(
                f"data={self.data.name} has {len(self.data.validation)} validation sequences, none from {self.first} on"
            )
        return left if wanted is None else min(left, wanted)


class Evaluation(Protocol):
    """Every process calls it with an equal subject, shares its batches out by ``subject.processes.map``, and yields the
    same rows as every other process."""

    def __call__(self, subject: Subject) -> Iterator[Row]: ...


@runtime_checkable
class Prepares(Protocol):
    """An evaluation that fetches what takes time, and finds out what cannot be had, before the first of many cells."""

    def prepare(self, subject: Subject) -> object:
        """Has an effect once per subject.

        Raises:
            NotApplicable: the evaluation does not suit the data.
            UserError: something cannot be had.
        """
        ...


@runtime_checkable
class Judges(Protocol):
    """An evaluation that knows which of its metrics say which way is better, before anything is measured."""

    @property
    def judging(self) -> Sequence[str]:
        """Names of metrics."""
        ...


class Study(ABC):
    """An evaluation of formulas alone: it needs neither checkpoint nor data, and one process."""

    @abstractmethod
    def study(self, outputs: Outputs) -> Iterator[Row]: ...

    def __call__(self, subject: Subject) -> Iterator[Row]:
        return self.study(subject.outputs)


def batches(size: int, batch_size: int, first: int = 0) -> list[range]:
    """``size`` indices from ``first`` on, in batches: the units that are shared out among processes."""
    end = first + size
    return [range(start, min(start + batch_size, end)) for start in range(first, end, batch_size)]
