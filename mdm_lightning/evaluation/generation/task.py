"""Problems whose solutions a rule can check: the share that a model solves with a given sampler."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.data.source import Task
from mdm_lightning.evaluation.base import NotApplicable, Row, Settings, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.cost import cost_rows
from mdm_lightning.evaluation.generation.generate import generate
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class TaskAccuracy:
    """Share of validation problems that are solved, and of responses that are well-formed, checked by rule.

    Args:
        sampler: how responses are generated.
        sequences: use the first so many problems only; None for all.
        batch_size: problems per batch.

    Raises:
        ValueError: a number is out of range.
    """

    judging: ClassVar[Sequence[str]] = ("accuracy", "valid")
    sampler: Sampler
    sequences: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, sequences=1, batch_size=1)

    def prepare(self, subject: Subject) -> int:
        """The number of problems.

        Raises:
            NotApplicable: the data are no task.
            UserError: there are no problems.
        """
        if subject.task is None:
            raise NotApplicable(
                "evaluation=task needs a checkpoint of a task, such as data=sudoku, countdown, running_sum or dyck"
            )
        return subject.validation_size(self.sequences)

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: as ``prepare``.
        """
        size, data, task = self.prepare(subject), subject.data, subject.task
        assert task is not None
        generated = generate(subject, self.sampler, size, self.batch_size, lambda unit: prompts(subject, unit))
        settings = {"data": data.name, **describe_sampler(self.sampler)}
        yield from score_rows(task, generated.tokens, settings)
        yield from cost_rows(generated, settings)


def prompts(subject: Subject, unit: range) -> Tensor:
    """Canvases `(b, l)` of validation sequences: masked wherever they may be."""
    clean = subject.data.validation.__getitems__(unit)
    return clean["tokens"].masked_fill(clean["maskable"], subject.tokenizer.mask_id)


def score_rows(task: Task, tokens: Tensor, settings: Settings) -> Iterator[Row]:
    """Shares of responses that are correct, and valid, of completed problems `(s, l)`."""
    verdicts = [task.check(row) for row in tokens]
    yield _share("accuracy", [verdict.correct for verdict in verdicts], settings)
    yield _share("valid", [verdict.valid for verdict in verdicts], settings)


def _share(metric: str, outcomes: list[bool], settings: Settings) -> Row:
    scores = torch.tensor(outcomes, dtype=torch.float64)
    n, share = len(scores), float(scores.mean())
    return Row(metric, share, (share * (1 - share) / n) ** 0.5, n, settings, "higher", scores.tolist())
