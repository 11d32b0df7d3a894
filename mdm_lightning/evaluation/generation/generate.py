"""Running the sampler over many sequences, shared out among processes."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from mdm_lightning.evaluation.base import Subject, batches
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.sampler import Sampler

SEQUENCES = 64
"""Samples where an evaluation is not told how many."""


class GeneratedBatch(NamedTuple):
    """S completed sequences in the order of their indices, on the CPU, and what they cost."""

    tokens: Int64[Tensor, "s l"]
    nfe: int
    """Network evaluations that were run, one for a whole batch of sequences. A guided step counts two."""
    sequence_nfe: Int64[Tensor, " s"]
    """Network evaluations that each sequence took part in."""
    sequence_positions: Int64[Tensor, " s"]
    """Positions that were computed of each sequence, over all network evaluations."""
    revealed_at: Int64[Tensor, "s l"]
    """Step, from 0, at which each position was (last) revealed; -1 for what was given."""
    seconds: float
    """Time spent sampling, added up over the batches, whichever processes they ran on."""


def generate(
    subject: Subject,
    sampler: Sampler,
    sequences: int,
    batch_size: int,
    canvas_of: Callable[[range], Int64[Tensor, "b l"]] | None = None,
    description: str = "sampling",
) -> GeneratedBatch:
    """Completes so many sequences from ``subject.first`` on; every process receives all of them.

    Sequence i gets the noise of (``subject.seed``, i), whatever its batch.

    Args:
        sequences: how many, at least one.
        batch_size: sequences per batch.
        canvas_of: the canvas of the sequences of a range; by default ``subject.length`` times MASK.
        description: what the progress bar says.
    """

    resolved = sampler.for_tokenizer(subject.tokenizer)

    def all_masked(indices: range) -> Int64[Tensor, "b l"]:
        return torch.full((len(indices), subject.length), subject.denoiser.mask_id)

    def complete(indices: range) -> GeneratedBatch:
        canvas = (canvas_of or all_masked)(indices)
        started = time.perf_counter()
        samples = resolved(
            subject.denoiser,
            canvas.to(subject.device),
            SequenceNoise(subject.seed, indices),
            on_step=lambda step, tokens: subject.processes.advance(),
        )
        tokens = samples.tokens.cpu()  # waits for the device, so the time is that of the work
        seconds = time.perf_counter() - started
        return GeneratedBatch(
            tokens,
            samples.nfe,
            samples.sequence_nfe.cpu(),
            samples.sequence_positions.cpu(),
            samples.revealed_at.cpu(),
            seconds,
        )

    steps = sampler.steps or subject.length
    parts = subject.processes.map(complete, batches(sequences, batch_size, subject.first), description, parts=steps)
    return GeneratedBatch(
        tokens=torch.cat([part.tokens for part in parts]),
        nfe=sum(part.nfe for part in parts),
        sequence_nfe=torch.cat([part.sequence_nfe for part in parts]),
        sequence_positions=torch.cat([part.sequence_positions for part in parts]),
        revealed_at=torch.cat([part.revealed_at for part in parts]),
        seconds=sum(part.seconds for part in parts),
    )
