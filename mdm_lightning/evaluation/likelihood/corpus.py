"""Likelihood on held-out sequences: the NELBO, or the sampler's own likelihood, with its standard error."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mdm_lightning.arguments import check_numbers
from mdm_lightning.diffusion.fitting import Fitting, fitted
from mdm_lightning.diffusion.masking import ForwardProcess, mark_answers, seeded_generator
from mdm_lightning.evaluation.base import Row, Subject, batches
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.likelihood.rows import Measured, Names, likelihood_rows
from mdm_lightning.evaluation.measuring import measure_nelbo

_NAMES = Names("nelbo_nats_per_token", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Likelihood:
    """Nats per token, perplexity and bits per byte on the validation sequences: of the NELBO, or of a sampler's output
    (``Policy``).

    Where responses are followed by fill up to the sequence's length, once with that fill, and once for the positions up
    to and including the first EOS alone ("_to_first_eos"): the first number falls with the length for the same model.

    A sequence's NELBO is estimated with a few random masks, which depend on the seed and the number of its batch
    only. The standard error is over sequences and contains both their spread and the Monte-Carlo error.

    Args:
        estimator: the forward process of the NELBO, or the one that fits the denoiser; or the sampler whose likelihood
            is asked for.
        draws: masks per sequence, or draws of the sampler's order or counts where chance decides on them.
        batch_size: sequences per forward pass.
        sequences: use the first so many only; None for all.

    Raises:
        ValueError: a number is out of range.
    """

    estimator: ForwardProcess | Fitting | Policy
    draws: int = 1
    batch_size: int = 64
    sequences: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, draws=1, batch_size=1, sequences=1)

    @property
    def judging(self) -> Sequence[str]:
        return self.estimator.judging if isinstance(self.estimator, Policy) else _NAMES

    def prepare(self, subject: Subject) -> int:
        """The number of sequences.

        Raises:
            UserError: there are none, or no data, or estimator and denoiser do not fit together.
        """
        if not isinstance(self.estimator, Policy):
            fitted(self.estimator, subject.denoiser)
        return subject.validation_size(self.sequences)

    def __call__(self, subject: Subject) -> Iterator[Row]:
        size, estimator = self.prepare(subject), self.estimator
        if isinstance(estimator, Policy):
            yield from estimator.rows(subject, size, self.draws, self.batch_size)
            return
        process = fitted(estimator, subject.denoiser)
        units = batches(size, self.batch_size, subject.first)
        parts = subject.processes.map(lambda unit: self._measure(subject, process, unit), units, "likelihood")
        measured = Measured(*map(torch.cat, zip(*parts, strict=True)))
        settings = {"data": subject.data.name, "estimator": process.estimator, "draws": self.draws}
        yield from likelihood_rows(measured, subject.data, settings, _NAMES)

    def _measure(self, subject: Subject, masking: ForwardProcess, unit: range) -> Measured:
        """The estimated NELBO of each sequence in a batch."""
        clean, end_id = subject.data.validation.__getitems__(unit), subject.data.answer_end
        nats, answer, answer_lengths = torch.zeros(3, len(unit), dtype=torch.float64)
        for draw in range(self.draws):
            generator = seeded_generator(subject.seed, unit.start, draw)
            batch = masking(clean["tokens"], clean["maskable"], subject.tokenizer.mask_id, generator, draw, self.draws)
            if end_id is not None:
                batch = mark_answers(batch, clean["tokens"], clean["maskable"], end_id)
            estimate = measure_nelbo(subject, batch, lambda row: f"validation sequence {unit.start + row}")
            nats += estimate.per_sequence
            if estimate.answer is not None and batch.answer_lengths is not None:
                answer, answer_lengths = answer + estimate.answer, batch.answer_lengths.double()
        return Measured(nats / self.draws, clean["maskable"].sum(1).double(), answer / self.draws, answer_lengths)
