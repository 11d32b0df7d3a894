"""The forward process: which positions of a batch are masked, and what each counts for in the NELBO.

Masking happens where the batch is assembled (on the CPU, usually in a data loader's worker). The number of masked rows
is then known without asking the device, so that the model's step contains no host-device synchronisation.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import check
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.diffusion.timesteps import TimeSampler


class MaskedBatch(NamedTuple):
    """A corrupted batch: what the denoiser sees, and what it must predict at the masked rows only.

    The rows are flat indices into ``tokens.flatten()``, in increasing order; ``m`` is their number.
    """

    tokens: Int64[Tensor, "b l"]
    """Token ids with MASK at the masked positions; ``NextToken`` masks none of its rows."""
    rows: Int64[Tensor, " m"]
    """Flat indices of the masked positions."""
    targets: Int64[Tensor, " m"]
    """The clean tokens there."""
    alpha: Float32[Tensor, " b"]
    """Probability with which each sequence's tokens were kept."""
    weight: Float32[Tensor, " m"]
    """NELBO weight of each masked position: equal within a sequence where the forward process masks all its positions
    alike, and not where each block or position has a time of its own."""
    lengths: Int64[Tensor, " b"]
    """Number of maskable positions in each sequence, the n of "nats per token"."""
    padding: Bool[Tensor, "b l"] | None = None
    """True at positions that are not part of a sequence; None where there are none."""

    positions: Float32[Tensor, ""] | None = None
    """Maskable positions of the whole optimizer step, per micro-batch of it; None where there is no step."""
    answer: Bool[Tensor, " m"] | None = None
    """Which rows lie in an answer, up to and including its first EOS; None where sequences have none."""
    answer_lengths: Int64[Tensor, " b"] | None = None
    """Number of positions in each answer, its first EOS included."""
    clean: Int64[Tensor, "b l"] | None = None
    """The tokens without MASK, where each block is to be predicted with the blocks before it clean (``Blockwise``)."""
    block_size: int | None = None
    """Positions per block there."""

    def to(self, device: torch.device) -> "MaskedBatch":
        """The batch on a device. The way to a GPU, from pinned memory, does not wait for the work that is queued there;
        the way back would hand out what has not arrived, and does."""
        ahead = device.type == "cuda"
        moved: Any = (part.to(device, non_blocking=ahead) if isinstance(part, Tensor) else part for part in self)
        return MaskedBatch(*moved)


class ForwardProcess(Protocol):
    @property
    def estimator(self) -> str:
        """What the weighted loss of its batches estimates, in words."""
        ...

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        maskable: Bool[Tensor, "b l"],
        mask_id: int,
        generator: torch.Generator,
        micro_batch: int = 0,
        micro_batches: int = 1,
    ) -> MaskedBatch:
        """Masks a batch; only ``maskable`` positions may be masked. See TimeSampler for the last two arguments."""
        ...


@dataclass(frozen=True)
class IndependentMasking:
    """Masks each token independently with probability 1 - alpha_t at a random time t: the continuous-time NELBO.

    The weight of a sequence is dalpha_t / (1 - alpha_t) at its time, over the density of times where they are not
    uniform: whatever the schedule, the expected loss is the same NELBO.
    """

    schedule: MaskSchedule
    times: TimeSampler

    @property
    def estimator(self) -> str:
        return f"continuous-time NELBO, {type(self.times).__name__} on {self.schedule}"

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        maskable: Bool[Tensor, "b l"],
        mask_id: int,
        generator: torch.Generator,
        micro_batch: int = 0,
        micro_batches: int = 1,
    ) -> MaskedBatch:
        t, noise = _draw(self.times, tokens, generator, micro_batch, micro_batches)
        masked = (noise < self.schedule.masked_t(t)[:, None]) & maskable
        weight = (self.schedule.weight_t(t) * self.times.weight(t))[:, None]
        return apply_mask(tokens, masked, maskable, mask_id, self.schedule.alpha_t(t), weight)


@dataclass(frozen=True)
class CountMasking:
    """Masks exactly k of the n maskable positions, k uniform on 1..n, with weight n / k.

    The same expected loss as IndependentMasking, with less variance: the number of masks does not fluctuate around its
    mean. The time sampler chooses k.
    """

    times: TimeSampler

    @property
    def estimator(self) -> str:
        return f"count-based NELBO, {type(self.times).__name__}"

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        maskable: Bool[Tensor, "b l"],
        mask_id: int,
        generator: torch.Generator,
        micro_batch: int = 0,
        micro_batches: int = 1,
    ) -> MaskedBatch:
        t, noise = _draw(self.times, tokens, generator, micro_batch, micro_batches)
        n = maskable.sum(1)
        # t = 0 is all masked, so time t stands for k = n - floor(t n) masks.
        return mask_counts(tokens, maskable, mask_id, n - (t * n).floor().long(), noise, self.times.weight(t))


@dataclass(frozen=True)
class StepMasking:
    """Masks as the sampler of K steps sees its canvases: the K-step NELBO, which depends on the schedule.

    A true upper bound on -log p of what the independent reverse step generates in K steps,

        NELBO_K(x) = sum_k (alpha_{k+1} - alpha_k) / (1 - alpha_k) * E[ sum over masked i of -log p(x_i | kept) ],

    with tokens kept with probability alpha_k. Step k is drawn with probability alpha_{k+1} - alpha_k: the kept share of
    the linear schedule at a random time, rounded down to the grid.

    Raises:
        ValueError: there is no step.
    """

    schedule: MaskSchedule
    times: TimeSampler
    steps: int

    def __post_init__(self) -> None:
        check(self, "steps", isinstance(self.steps, int) and self.steps >= 1, "a positive integer")

    @property
    def estimator(self) -> str:
        return f"{self.steps}-step NELBO, {self.schedule}"

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        maskable: Bool[Tensor, "b l"],
        mask_id: int,
        generator: torch.Generator,
        micro_batch: int = 0,
        micro_batches: int = 1,
    ) -> MaskedBatch:
        share, noise = _draw(self.times, tokens, generator, micro_batch, micro_batches)
        times = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        grid = self.schedule.alpha_t(times)
        step = torch.searchsorted(grid[1:-1].contiguous(), share, right=True)
        ratio = self.schedule.masked_t(times)[step]  # which 1 - alpha may have no digit of
        masked = (noise < ratio[:, None]) & maskable
        return apply_mask(tokens, masked, maskable, mask_id, grid[step], (self.times.weight(share) / ratio)[:, None])


@dataclass(frozen=True)
class NextToken:
    """Masks nothing, and has every position predicted with weight 1: the chain rule, -log p(x) itself.

    For a denoiser that reads what stands before a position alone (``Denoiser.autoregressive``); any other would read
    the answer.
    """

    @property
    def estimator(self) -> str:
        return "exact, token by token"

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        maskable: Bool[Tensor, "b l"],
        mask_id: int,
        generator: torch.Generator,
        micro_batch: int = 0,
        micro_batches: int = 1,
    ) -> MaskedBatch:
        one = torch.ones(len(tokens), dtype=torch.float64)
        return apply_mask(tokens, maskable, maskable, mask_id, one, one[:, None])._replace(tokens=tokens)


def mask_counts(
    tokens: Int64[Tensor, "b l"],
    maskable: Bool[Tensor, "b l"],
    mask_id: int,
    count: Int64[Tensor, " b"],
    noise: Float64[Tensor, "b l"],
    factor: Float64[Tensor, " b"] | float = 1.0,
) -> MaskedBatch:
    """Masks the ``count`` maskable positions of each sequence where the noise is least, with weight n / count times
    ``factor``.

    With the same noise, the masks of different counts are nested.
    """
    n = maskable.sum(1)
    rank = noise.masked_fill(~maskable, math.inf).argsort(dim=1).argsort(dim=1)
    masked = (rank < count[:, None]) & maskable
    # A sequence with nothing to mask has n = count = 0: its alpha is irrelevant, but must be finite.
    alpha, weight = (n - count).double() / n.clamp(min=1), factor * n.double() / count.clamp(min=1)
    return apply_mask(tokens, masked, maskable, mask_id, alpha, weight[:, None])


def apply_mask(
    tokens: Int64[Tensor, "b l"],
    masked: Bool[Tensor, "b l"],
    maskable: Bool[Tensor, "b l"],
    mask_id: int,
    alpha: Float64[Tensor, " b"],
    weight: Float64[Tensor, "b _"],
) -> MaskedBatch:
    """The batch in which the ``masked`` positions are masked.

    Args:
        alpha: probability with which each sequence's tokens were kept.
        weight: NELBO weight of each position, or one of each sequence; where nothing is masked it does not matter.
    """
    rows = masked.flatten().nonzero().squeeze(1)
    return MaskedBatch(
        tokens=tokens.masked_fill(masked, mask_id),
        rows=rows,
        targets=tokens.flatten()[rows],
        alpha=alpha.float(),
        weight=weight.expand(masked.shape).flatten()[rows].float(),
        lengths=maskable.sum(1),
    )


def mark_answers(
    batch: MaskedBatch, tokens: Int64[Tensor, "b l"], maskable: Bool[Tensor, "b l"], end_id: int
) -> MaskedBatch:
    """A batch that knows where answers end: at the first ``end_id`` that is maskable, or with the sequence."""
    answer = answer_positions(tokens, maskable, end_id)
    return batch._replace(answer=answer.flatten()[batch.rows], answer_lengths=answer.sum(1))


def answer_positions(tokens: Int64[Tensor, "b l"], maskable: Bool[Tensor, "b l"], end_id: int) -> Bool[Tensor, "b l"]:
    """The maskable positions up to and including the first ``end_id`` among them."""
    end = ((tokens == end_id) & maskable).long()
    return maskable & (end.cumsum(1) == end)


def seeded_generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a pure function of a few non-negative numbers: a seed, a stream, the number of a batch."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


def _draw(
    times: TimeSampler, tokens: Int64[Tensor, "b l"], generator: torch.Generator, micro_batch: int, micro_batches: int
) -> tuple[Float64[Tensor, " b"], Float64[Tensor, "b l"]]:
    """A time for each sequence and a uniform number for each position.

    The times are dealt in random order: a sequence's place in its batch must not decide how much of it is masked.
    """
    uniform = torch.rand(len(tokens), generator=generator, dtype=torch.float64)
    noise = torch.rand(tokens.shape, generator=generator, dtype=torch.float64)
    drawn = times(uniform, micro_batch, micro_batches)
    return drawn[torch.randperm(len(drawn), generator=generator)], noise
