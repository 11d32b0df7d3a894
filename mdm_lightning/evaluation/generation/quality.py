"""The quality of unconditional samples, with held-out text beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.arguments import check_numbers
from mdm_lightning.diffusion.objective import perplexity
from mdm_lightning.evaluation.base import NotApplicable, Row, Settings, Subject, batches
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.cost import cost_rows
from mdm_lightning.evaluation.generation.diversity import copied, diversity
from mdm_lightning.evaluation.generation.generate import SEQUENCES, generate
from mdm_lightning.evaluation.generation.scorers import PreparedScorer, Scorer, Scores, finite_scores
from mdm_lightning.evaluation.statistics import standard_error
from mdm_lightning.sampling.sampler import Sampler

COPIED_WINDOW = 16
"""Tokens per stretch that counts as copied from the training text; shorter sequences count as a whole."""


@dataclass(frozen=True)
class Generation:
    """Unconditional samples, described and judged, beside as many validation sequences.

    No single number is to be trusted: a scorer prefers text that repeats itself, which diversity shows, and nothing is
    more fluent than copied training text, which ``duplicates`` shows. Held-out text says what is normal.

    Args:
        sampler: how text is generated.
        scorer: model that says how likely it is.
        sequences: how many; None for 64.
        batch_size: sequences per batch.
        reference: measure validation sequences too.
        show: how many samples to print.

    Raises:
        ValueError: a number is out of range.
    """

    judging: ClassVar[Sequence[str]] = ("scorer_nats_per_token", "scorer_perplexity")
    sampler: Sampler
    scorer: Scorer
    sequences: int | None = None
    batch_size: int = 64
    reference: bool = True
    show: int = 2

    def __post_init__(self) -> None:
        check_numbers(self, sequences=1, batch_size=1, show=0)

    def prepare(self, subject: Subject) -> PreparedScorer:
        """The scorer, with the text that it is fitted on or that copies are looked for in.

        Raises:
            NotApplicable: the data are prompts with responses, or not known.
            UserError: the scorer cannot be had.
        """
        if subject.prompted:
            raise NotApplicable("evaluation=generation is for text; for tasks choose evaluation=task or samples")
        _ = subject.data
        return subject.once(self.scorer, lambda: self.scorer.prepare(subject))

    def __call__(self, subject: Subject) -> Iterator[Row]:
        """Raises:
        UserError: as ``prepare``.
        """
        scorer = self.prepare(subject)  # before the work
        generated = generate(subject, self.sampler, self.sequences or SEQUENCES, self.batch_size)
        for number, row in enumerate(generated.tokens[: self.show]):
            subject.outputs.text(f"generation/{number}", subject.tokenizer.decode(row))
        sampled = {"text": "generated", **describe_sampler(self.sampler)}
        yield from cost_rows(generated, sampled)

        texts: list[tuple[Settings, Int64[np.ndarray, "s l"]]] = [(sampled, generated.tokens.numpy())]
        size = min(len(generated.tokens), len(subject.data.validation)) if self.reference else 0
        if size:
            held_out = subject.data.validation.__getitems__(range(size))["tokens"].numpy()
            texts.append(({"text": "validation", "data": subject.data.name}, held_out))
        for settings, tokens in texts:
            measures, scores = self._measure(subject, scorer, tokens)
            if scores.counted.any():
                yield from scorer_rows(scores, {**settings, "scorer": self.scorer.protocol})
            for metric, values in measures.items():
                yield Row.of_scores(metric, values, settings)

    def _measure(
        self, subject: Subject, scorer: PreparedScorer, tokens: Int64[np.ndarray, "s l"]
    ) -> tuple[Mapping[str, Float64[np.ndarray, " s"]], Scores]:
        """Measures and the scorer's scores of each sequence."""
        measures, scores = judge(subject, self.scorer, scorer, tokens, self.batch_size)
        width = min(COPIED_WINDOW, tokens.shape[1])
        duplicates = copied(tokens, subject.data.train.stream, width, subject.processes).mean(axis=1)
        return {**measures, "duplicates": duplicates}, scores


def judge(
    subject: Subject, scorer: Scorer, prepared: PreparedScorer, tokens: Int64[np.ndarray, "s l"], batch_size: int
) -> tuple[dict[str, Float64[np.ndarray, " s"]], Scores]:
    """How varied each sequence is, and what the scorer makes of it; every process receives all of it.

    Raises:
        UserError: the scorer has no finite score for a text.
    """

    def measure(unit: range) -> tuple[dict[str, Float64[np.ndarray, " b"]], Scores]:
        batch = tokens[unit.start : unit.stop]
        decoded = [subject.tokenizer.decode(row, skip_special=False) for row in batch]
        return diversity(batch), finite_scores(scorer, prepared, batch, decoded, unit.start)

    parts = subject.processes.map(measure, batches(len(tokens), batch_size), "judging")
    measures = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    return measures, Scores(*(np.concatenate(column) for column in zip(*(part for _, part in parts), strict=True)))


def scorer_rows(scores: Scores, settings: Settings) -> Iterator[Row]:
    """The average over all tokens that were scored, and its exponential."""
    shares = scores.per_token().tolist()
    average, error, n = scores.average, standard_error(shares), len(shares)
    averaged = {**settings, "average": "over tokens"}
    yield Row("scorer_nats_per_token", average, error, n, averaged, "lower", shares)
    value = perplexity(average)
    yield Row("scorer_perplexity", value, None if error is None else value * error, n, averaged, "lower")
