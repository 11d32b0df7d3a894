"""Likelihood on held-out sequences: the NELBO with its standard error."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.data.source import why_no_bits_per_byte
from mdm_lightning.diffusion.masking import ForwardProcess, mark_answers, seeded_generator
from mdm_lightning.diffusion.objective import bits_per_byte, perplexity
from mdm_lightning.evaluation.base import Row, Settings, Subject, batches
from mdm_lightning.evaluation.measuring import measure_nelbo

_FILLED = "responses and the fill after their first EOS"
_ENDED = "responses up to and including their first EOS"


@dataclass(frozen=True)
class Likelihood:
    """NELBO in nats per token, perplexity and bits per byte on the validation sequences.

    Where responses are followed by fill up to the sequence's length, once with that fill, and once for the positions up
    to and including the first EOS alone ("_to_first_eos"): the first number falls with the length for the same model.

    Each sequence's NELBO is estimated with a few random masks, which depend on the seed and the number of its batch
    only. The standard error is over sequences and contains both their spread and the Monte-Carlo error.

    Args:
        masking: the forward process, which chooses the estimator.
        draws: masks per sequence.
        batch_size: sequences per forward pass.
        sequences: use the first so many only; None for all.

    Raises:
        ValueError: a number is out of range.
    """

    judging: ClassVar[Sequence[str]] = ("nelbo_nats_per_token", "perplexity", "bits_per_byte")
    masking: ForwardProcess
    draws: int = 1
    batch_size: int = 64
    sequences: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, draws=1, batch_size=1, sequences=1)

    def prepare(self, subject: Subject) -> int:
        """The number of sequences.

        Raises:
            UserError: there are none, or no data.
        """
        return subject.validation_size(self.sequences)

    def __call__(self, subject: Subject) -> Iterator[Row]:
        data = subject.data
        units = batches(subject.validation_size(self.sequences), self.batch_size, subject.first)
        measured = subject.processes.map(lambda unit: self._measure(subject, unit), units, "likelihood")
        nats, positions, answer_nats, answer_positions = (torch.cat(part) for part in zip(*measured, strict=True))
        settings: dict[str, str | int | float] = {
            "data": data.name, "estimator": self.masking.estimator, "draws": self.draws,
        }  # fmt: skip
        if data.changed_text:
            settings["bits_per_byte"] = f"left out: {why_no_bits_per_byte(data.changed_text)}"
        if data.answer_end is None:
            yield from _rows(nats, positions, data.bytes_per_position, settings)
            return
        filled, ended = ({**settings, "positions": which} for which in (_FILLED, _ENDED))
        yield from _rows(nats, positions, None, filled)
        yield from _rows(answer_nats, answer_positions, None, ended, suffix="_to_first_eos")

    def _measure(self, subject: Subject, unit: range) -> tuple[Float64[Tensor, " b"], ...]:
        """Estimated NELBO in nats, and number of positions, of each sequence in a batch; then both for answers up to
        their first EOS, zero where answers do not end so."""
        clean, end_id = subject.data.validation.__getitems__(unit), subject.data.answer_end
        nats, answer, answer_lengths = torch.zeros(3, len(unit), dtype=torch.float64)
        for draw in range(self.draws):
            generator = seeded_generator(subject.seed, unit.start, draw)
            batch = self.masking(
                clean["tokens"], clean["maskable"], subject.tokenizer.mask_id, generator, draw, self.draws
            )
            if end_id is not None:
                batch = mark_answers(batch, clean["tokens"], clean["maskable"], end_id)
            estimate = measure_nelbo(subject, batch, lambda row: f"validation sequence {unit.start + row}")
            nats += estimate.per_sequence
            if estimate.answer is not None and batch.answer_lengths is not None:
                answer, answer_lengths = answer + estimate.answer, batch.answer_lengths.double()
        return nats / self.draws, clean["maskable"].sum(1).double(), answer / self.draws, answer_lengths


def _rows(
    nats: Float64[Tensor, " s"],
    positions: Float64[Tensor, " s"],
    bytes_per_position: float | None,
    settings: Settings,
    suffix: str = "",
) -> Iterator[Row]:
    n = len(nats)
    per_token = float(nats.sum() / positions.sum())
    # The error of a ratio of sums (delta method); with equal lengths, that of a mean.
    residual = (nats - per_token * positions) / positions.mean()
    error = float(residual.std() / math.sqrt(n)) if n > 1 else math.nan
    scores = (nats / positions.mean()).tolist()
    yield Row(f"nelbo_nats_per_token{suffix}", per_token, error, n, settings, "lower", scores)
    yield Row(f"perplexity{suffix}", perplexity(per_token), perplexity(per_token) * error, n, settings, "lower")
    if bytes_per_position is not None:
        scale = bits_per_byte(1.0, bytes_per_position)
        yield Row("bits_per_byte", per_token * scale, error * scale, n, settings, "lower")
