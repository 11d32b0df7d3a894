"""Completing prompts of different lengths, in batches that are shared out among processes."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mdm_lightning.evaluation.base import Subject, batches
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.sampler import Sampler


class Prompt(NamedTuple):
    """What is to be completed."""

    tokens: Sequence[int]
    length: int
    """Positions to generate."""
    key: int
    """Index of its noise (SequenceNoise)."""


class Completion(NamedTuple):
    """What was generated after a prompt, and what that cost."""

    tokens: list[int]
    nfe: int
    """Network evaluations that the sequence took part in."""
    positions: int
    """Positions that were computed in them, those of the prompt included."""
    seconds: float
    """Its share of the time that its batch took."""


def complete(subject: Subject, sampler: Sampler, prompts: Sequence[Prompt], batch_size: int) -> list[Completion]:
    """Completes every prompt; every process receives all completions, in the order of the prompts.

    Prompts of similar length share a batch, the longest first, so that memory runs out at once if it does. Shorter ones
    are padded on the right, so that a position, and with it its noise, does not depend on what else is in the batch.
    """
    sizes = [(len(tokens) + length, length) for tokens, length, _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: sizes[i], reverse=True)
    units = [[prompts[order[place]] for place in unit] for unit in batches(len(order), batch_size)]
    resolved = sampler.for_tokenizer(subject.tokenizer)

    def fill(unit: Sequence[Prompt]) -> list[Completion]:
        longest = max(len(prompt.tokens) + prompt.length for prompt in unit)
        canvas = torch.full((len(unit), longest), subject.denoiser.mask_id)
        padding = torch.ones_like(canvas, dtype=torch.bool)
        for row, (tokens, length, _) in enumerate(unit):
            canvas[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            padding[row, : len(tokens) + length] = False
        started = time.perf_counter()
        samples = resolved(
            subject.denoiser,
            canvas.to(subject.device),
            SequenceNoise(subject.seed, [prompt.key for prompt in unit]),
            padding=padding.to(subject.device) if padding.any() else None,
            on_step=lambda step, tokens: subject.processes.advance(),
        )
        filled = samples.tokens.tolist()  # waits for the device, so the time is that of the work
        seconds = (time.perf_counter() - started) / len(unit)
        costs = zip(samples.sequence_nfe.tolist(), samples.sequence_positions.tolist(), strict=True)
        return [
            Completion(row[len(prompt.tokens) : len(prompt.tokens) + prompt.length], *cost, seconds)
            for row, prompt, cost in zip(filled, unit, costs, strict=True)
        ]

    steps = sampler.steps or max((length for _, length in sizes), default=1)
    completed = [c for part in subject.processes.map(fill, units, "sampling", parts=steps) for c in part]
    in_order = dict(zip(order, completed, strict=True))
    return [in_order[i] for i in range(len(prompts))]
