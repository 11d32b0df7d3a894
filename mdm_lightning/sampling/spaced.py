"""Orders that keep the positions of a step far from each other.

What is revealed in one step is drawn independently, and neighbours depend on each other most. Places are counted among
the positions to be generated: a prompt, or what is given in between, takes none.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Random, StaticOrder


@dataclass(frozen=True)
class Dilated(StaticOrder):
    """Evenly spaced positions, then those halfway between, and so on, from the first position on: 0, 8, 4, 12, 2, ...
    of 16 (the order of DUS, Luxembourg et al., 2025, arXiv:2506.19037).

    For every n the first 2^j positions are spread as evenly as can be, with gaps of n / 2^j, rounded down or up.
    """

    def ranks(self, generated: Bool[Tensor, "b l"], noise: SequenceNoise) -> Int64[Tensor, "b l"]:
        n = generated.sum(1, keepdim=True)
        slots = (generated.cumsum(1) - 1 - self._begin(n.squeeze(1), noise)[:, None]) % n.clamp(min=1)
        ranks = torch.zeros_like(slots)
        for length in n[n > 0].unique().tolist():
            rows = n.squeeze(1) == length
            ranks[rows] = spread(length).argsort()[slots[rows]]
        return ranks

    def _begin(self, n: Int64[Tensor, " b"], noise: SequenceNoise) -> Int64[Tensor, " b"]:
        """Place of each sequence's first position."""
        return torch.zeros_like(n)


@dataclass(frozen=True)
class Spaced(Dilated):
    """The order Dilated, round a circle from a place on that each sequence's noise decides: no position is always
    early."""

    reads_noise: ClassVar[bool] = True

    def _begin(self, n: Int64[Tensor, " b"], noise: SequenceNoise) -> Int64[Tensor, " b"]:
        return (noise.phases() * n).long()


@dataclass(frozen=True)
class MinimumDistance(StaticOrder):
    """Random, but first only positions at least ``distance`` places from all before them; where there are none left,
    at least half of it, and so on down to 1 (distances 8 to 1 in Wen, Liang & Lu, 2026, arXiv:2608.25505).

    Args:
        distance: of the first positions.

    Raises:
        ValueError: it is not positive.
    """

    reads_noise: ClassVar[bool] = True
    distance: int = 8

    def __post_init__(self) -> None:
        check_numbers(self, distance=1)

    def ranks(self, generated: Bool[Tensor, "b l"], noise: SequenceNoise) -> Int64[Tensor, "b l"]:
        shuffled, ranks = Random().ranks(generated, noise), torch.zeros(generated.shape, dtype=torch.int64)
        for row, there in enumerate(generated):
            order = _far_apart(shuffled[row, there].argsort().tolist(), self.distance)
            ranks[row, there] = torch.tensor(order, dtype=torch.int64).argsort()
        return ranks


def _far_apart(places: list[int], distance: int) -> list[int]:
    """The places 0 ... n - 1, given in any order, in the order of MinimumDistance."""
    edge = distance
    taken, found = bytearray(len(places) + 2 * edge), []
    while places:
        close = []
        for place in places:
            if 1 in taken[edge + place - distance + 1 : edge + place + distance]:
                close.append(place)
            else:
                taken[edge + place] = 1
                found.append(place)
        places, distance = close, max(1, distance // 2)
    return found


@cache
def spread(n: int) -> Int64[Tensor, " n"]:
    """The places 0 ... n - 1, of which the first 2^j are spread evenly for every j: the points of van der Corput's
    sequence in base 2, rounded down to a grid of n, each where it comes first."""
    bits = max(n - 1, 0).bit_length()
    points = torch.arange(2**bits)
    reversed_bits = sum(((points >> bit & 1) << (bits - 1 - bit) for bit in range(bits)), torch.zeros_like(points))
    slots = reversed_bits * n >> bits
    first = torch.full((n,), len(slots)).scatter_reduce_(0, slots, points, "amin")
    return slots[first.sort().values]
