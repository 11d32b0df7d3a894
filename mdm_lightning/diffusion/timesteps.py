"""Training times: where on [0, 1) a batch of sequences is corrupted.

A time sampler turns one uniform number per sequence into one time per sequence. It is a pure function of its
arguments, so equal noise gives equal times on any number of processes.

Where times are not uniform, each sequence counts 1 / density of its time, and the expected loss stays the same.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.arguments import check, check_shares, finite


class TimeSampler(Protocol):
    def __call__(self, uniform: Float64[Tensor, " b"], micro_batch: int, micro_batches: int) -> Float64[Tensor, " b"]:
        """Times in [0, 1) for one micro-batch.

        Args:
            uniform: independent uniform numbers in [0, 1), one per sequence.
            micro_batch: index of this micro-batch in its global batch, over ranks and accumulation steps.
            micro_batches: number of micro-batches of the same size in the global batch.
        """
        ...

    def weight(self, t: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """What the loss of a sequence is multiplied by, for times that it has been given: 1 where they are uniform."""
        ...


@dataclass(frozen=True)
class UniformTimes:
    """Independent uniform times."""

    def __call__(self, uniform: Float64[Tensor, " b"], micro_batch: int, micro_batches: int) -> Float64[Tensor, " b"]:
        return uniform

    def weight(self, t: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        return torch.ones_like(t)


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

    def weight(self, t: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        return torch.ones_like(t)


@dataclass(frozen=True)
class BellTimes(StratifiedTimes):
    """Stratified times with a bell-shaped density: more of them in the middle, where neither nearly all nor nearly
    nothing is masked. The idea is that of Hong et al. (2026), arXiv:2605.13026; the shape here is our own:

        q(t) = uniform_share + (1 - uniform_share) * normal density with ``mean`` and ``std``, cut to [0, 1).

    Args:
        mean: time of the peak, before the cut.
        std: width of the bell, before the cut.
        uniform_share: share of the times that stays uniform, so that no weight exceeds ``1 / uniform_share``.
        unbiased: weigh each time by 1 / q(t), which keeps the expected loss the NELBO. Without, times in the middle
            count more: the loss is another one, which is no bound on the likelihood.

    Raises:
        ValueError: ``mean`` or ``uniform_share`` is no share, there are no uniform times, or ``std`` is not positive.
    """

    mean: float = 0.5
    std: float = 0.2
    uniform_share: float = 0.25
    unbiased: bool = True

    def __post_init__(self) -> None:
        check_shares(self, "mean", "uniform_share")
        check(self, "uniform_share", self.uniform_share > 0, "positive")
        check(self, "std", finite(self.std) and self.std > 0, "positive and finite")

    def __call__(self, uniform: Float64[Tensor, " b"], micro_batch: int, micro_batches: int) -> Float64[Tensor, " b"]:
        u = super().__call__(uniform, micro_batch, micro_batches)
        low, mass = self._cut()
        in_bell = ((u - self.uniform_share) / max(1 - self.uniform_share, 2**-53)).clamp(0, 1)
        bell = self.mean + self.std * torch.special.ndtri((low + mass * in_bell).clamp(0, 1))
        return torch.where(u < self.uniform_share, u / self.uniform_share, bell).clamp(0, 1 - 2**-53)

    def weight(self, t: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        return 1 / self.density(t) if self.unbiased else torch.ones_like(t)

    def density(self, t: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """The density q(t) of the times on [0, 1)."""
        bell = (-(((t - self.mean) / self.std) ** 2) / 2).exp() / (self.std * math.sqrt(2 * math.pi) * self._cut()[1])
        return self.uniform_share + (1 - self.uniform_share) * bell

    def _cut(self) -> tuple[float, float]:
        """The normal distribution's mass below 0, and on [0, 1]."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        low, high = torch.special.ndtr((ends - self.mean) / self.std).tolist()
        return low, high - low
