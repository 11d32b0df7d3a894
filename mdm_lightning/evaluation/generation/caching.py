"""What an approximate cache changes: the same instances, the same noise, with it and without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mdm_lightning.arguments import check_numbers
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.cost import cost_rows
from mdm_lightning.evaluation.generation.generate import SEQUENCES, generate
from mdm_lightning.evaluation.generation.task import prompts, score_rows
from mdm_lightning.sampling.cache import NoCache
from mdm_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class Caching:
    """Share of generated tokens that differ from those without a cache and, for tasks, the paired difference of the
    scores; and what both cost.

    One token that differs may change all that come after it: texts can differ in most tokens and be equally good.

    Args:
        sampler: with a cache.
        sequences: how many problems of the validation data, or sequences to generate where the data are no task; None
            for all problems, or 64 sequences.
        batch_size: sequences per batch.

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
        """The number of sequences.

        Raises:
            UserError: the sampler has no cache, or there are no problems.
        """
        if isinstance(self.sampler.cache, NoCache):
            raise UserError("evaluation=caching compares a cache with none: choose cache=prefix, dual or exact")
        if subject.task is not None or subject.prompted:
            return subject.validation_size(self.sequences)
        return self.sequences or SEQUENCES

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: as ``prepare``.
        """
        size, task = self.prepare(subject), subject.task
        given = None if task is None and not subject.prompted else lambda unit: prompts(subject, unit)
        runs, scores = [], []
        # With the cache first: of several rows of a metric, a sweep goes by the first.
        for sampler in (self.sampler, replace(self.sampler, cache=NoCache())):
            run = generate(subject, sampler, size, self.batch_size, given)
            settings = {"cache": "none", **describe_sampler(sampler)}
            judged = [] if task is None else list(score_rows(task, run.tokens, settings))
            yield from (*judged, *cost_rows(run, settings))
            runs.append(run)
            scores.append(judged)
        cached, plain = runs
        settings = describe_sampler(self.sampler)
        generated = plain.revealed_at >= 0
        differ = ((plain.tokens != cached.tokens) & generated).sum(1) / generated.sum(1).clamp(min=1)
        yield Row.of_scores("tokens_changed", differ, settings)
        for after, before in zip(*scores, strict=True):
            pairs = zip(before.scores or (), after.scores or (), strict=True)
            yield Row.of_scores(f"{before.metric}_change", [float(y - x) for x, y in pairs], settings)
