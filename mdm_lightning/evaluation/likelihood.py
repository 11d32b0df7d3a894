"""Likelihood on held-out sequences: the NELBO with its standard error."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from mdm_lightning.diffusion.masking import ForwardProcess, MaskedBatch, seeded_generator
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.metrics import bits_per_byte, perplexity


@dataclass(frozen=True)
class Likelihood:
    """NELBO in nats per token, perplexity and bits per byte on the validation sequences.

    Each sequence's NELBO is estimated with a few independent masks; the noise of a batch depends on the seed and its
    number only. The standard error is over sequences and contains both their spread and the Monte-Carlo error.

    Args:
        masking: the forward process, which chooses the estimator.
        draws: masks per sequence.
        batch_size: sequences per forward pass.
        sequences: use the first so many only; None for all.
    """

    masking: ForwardProcess
    draws: int = 1
    batch_size: int = 64
    sequences: int | None = None

    def __call__(self, subject: Subject) -> Iterator[Row]:
        data, size = subject.data, len(subject.data.validation)
        size = min(size, self.sequences or size)
        nats, positions = [], []
        for start in tqdm(range(0, size, self.batch_size), desc="likelihood", unit="batch", leave=False):
            clean = data.validation.__getitems__(range(start, min(start + self.batch_size, size)))
            total = torch.zeros(len(clean["tokens"]), dtype=torch.float64)
            for draw in range(self.draws):
                generator = seeded_generator(subject.seed, start, draw)
                batch = self.masking(clean["tokens"], clean["maskable"], data.tokenizer.mask_id, generator)
                with torch.inference_mode():
                    estimate = nelbo(subject.denoiser, MaskedBatch(*(part.to(subject.device) for part in batch)))
                total += estimate.per_sequence.double().cpu()
            nats.append(total / self.draws)
            positions.append(clean["maskable"].sum(1).double())
        yield from self._rows(torch.cat(nats), torch.cat(positions), data.bytes_per_position)

    def _rows(self, nats: torch.Tensor, positions: torch.Tensor, bytes_per_position: float | None) -> Iterator[Row]:
        settings = f"{type(self.masking).__name__}, {self.draws} draws"
        n = len(nats)
        per_token = float(nats.sum() / positions.sum())
        # The error of a ratio of sums (delta method); with equal lengths, that of a mean.
        residual = (nats - per_token * positions) / positions.mean()
        error = float(residual.std() / math.sqrt(n)) if n > 1 else math.nan
        yield Row("nelbo_nats_per_token", per_token, error, n, settings)
        yield Row("perplexity", perplexity(per_token), perplexity(per_token) * error, n, settings)
        if bytes_per_position is not None:
            scale = bits_per_byte(1.0, bytes_per_position)
            yield Row("bits_per_byte", per_token * scale, error * scale, n, settings)
