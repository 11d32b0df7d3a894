"""Counts with published numbers of positions per step, whatever the schedule."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from mdm_lightning.arguments import check_numbers, check_shares
from mdm_lightning.diffusion.schedule import MaskSchedule
from mdm_lightning.sampling.count import FixedCount, FixedSizes


@dataclass(frozen=True)
class AscendingSizes(FixedSizes):
    """1, 2, 4, 8, ... positions, the last step what is left: about log2 n steps (ASS, Yang et al., 2025,
    arXiv:2509.23924)."""

    def revealed(self, steps: int) -> int:
        return 2**steps - 1


@dataclass(frozen=True)
class DilatedSizes(FixedSizes):
    """``base`` to the power of k positions after step k: with the order Dilated, each step reveals what lies halfway
    between what is there (for base 2), in about log2 n steps (DUS, Luxembourg et al., 2025, arXiv:2506.19037).

    Args:
        base: factor by which the revealed positions grow with each step.

    Raises:
        ValueError: it is below 2.
    """

    base: int = 2

    def __post_init__(self) -> None:
        check_numbers(self, base=2)

    def revealed(self, steps: int) -> int:
        return self.base**steps


@dataclass(frozen=True)
class ShareOfRemaining(FixedCount):
    """The linear schedule's share of what is still masked, rounded down at every step; the last step takes the rest
    (Dream, Ye et al., 2025).

    32 positions in 8 steps are 3, 4, 4, 4, 4, 4, 4, 5. In float32 like Dream's own arithmetic, whose rounding decides
    now and then. A step whose share is below one position reveals none and costs no forward pass; Dream's costs one.

    Args:
        eps: share that the grid of times, from 1 down, leaves masked.

    Raises:
        ValueError: it is no share.
    """

    reads_schedule: ClassVar[bool] = False
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_shares(self, "eps")

    def quota(self, schedule: MaskSchedule, steps: Int64[Tensor, " b"], n: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
        distinct, row = steps.clamp(min=1).unique(return_inverse=True)
        share = torch.ones(len(distinct), int(distinct[-1]))
        for own, number in zip(share, distinct.tolist(), strict=True):
            times = torch.linspace(1, self.eps, number + 1)
            own[: number - 1] = 1 - times[1:number] / times[: number - 1]
        left, quota = n, []
        for column in share[row].T:
            quota.append((left * column).long())
            left = left - quota[-1]
        return torch.stack(quota, dim=1)
