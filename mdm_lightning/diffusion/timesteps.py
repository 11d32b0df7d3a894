"""Training times: where on [0, 1) a batch of sequences is corrupted.

A time sampler turns one uniform number per sequence into one time per sequence. It is a pure function of its
arguments, so equal noise gives equal times on any number of processes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float64
from torch import Tensor


class TimeSampler(Protocol):
    def __call__(self, uniform: Float64[Tensor, " b"], micro_batch: int, micro_batches: int) -> Float64[Tensor, " b"]:
        """Times in [0, 1) for one micro-batch.

        Args:
            uniform: independent uniform numbers in [0, 1), one per sequence.
            micro_batch: index of this micro-batch in its global batch, over ranks and accumulation steps.
            micro_batches: number of micro-batches of the same size in the global batch.
        """
        ...


@dataclass(frozen=True)
class UniformTimes:
    """Independent uniform times."""

    def __call__(self, uniform: Float64[Tensor, " b"], micro_batch: int, micro_batches: int) -> Float64[Tensor, " b"]:
        return uniform


@dataclass(frozen=True)
class StratifiedTimes:
    """One time in each of N equal strata, N the size of the *global* batch.

    Each time is still uniform on [0, 1), so the loss stays unbiased, while its variance over batches drops. Strata are
    dealt to micro-batches in turn: each covers the whole interval and ranks do equal work.
    """

    def __call__(self, uniform: Float64[Tensor, " b"], micro_batch: int, micro_batches: int) -> Float64[Tensor, " b"]:
        stratum = torch.arange(len(uniform), dtype=torch.float64) * micro_batches + micro_batch
        # The division may round (stratum + u) / N up to 1 for u just below 1.
        return ((stratum + uniform) / (len(uniform) * micro_batches)).clamp(max=1 - 2**-53)
