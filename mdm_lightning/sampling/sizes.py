"""Counts with published numbers of positions per step, whatever the schedule."""

from dataclasses import dataclass

from mdm_lightning.arguments import check_numbers
from mdm_lightning.sampling.count import FixedSizes


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
