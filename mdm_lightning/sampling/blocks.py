"""Semi-autoregressive generation: the canvas is filled block by block, from left to right."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from mdm_lightning.arguments import BadArgument, check_numbers

NO_BLOCK = torch.iinfo(torch.int64).max


class Part(NamedTuple):
    """One block of every sequence of a batch; sequences with fewer blocks have an empty one."""

    generated: Bool[Tensor, "b l"]
    """The block's positions."""
    steps: Int64[Tensor, " b"]
    """Number of steps that each sequence spends on it."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``length`` masked positions each, the last one possibly shorter (LLaDA, Nie et al., 2025).

    Only the masked positions of a sequence count, so prompts may differ in length within a batch and the canvas may
    have gaps. The step budget is split evenly; the first blocks get one step more if it does not divide.

    Args:
        length: masked positions per block; None for a single block.

    Raises:
        ValueError: the length is not positive.
    """

    length: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, length=1)

    def index(self, generated: Bool[Tensor, "b l"]) -> Int64[Tensor, "b l"]:
        """Number of the block that each generated position belongs to; NO_BLOCK elsewhere."""
        rank = generated.cumsum(1) - 1
        block = torch.zeros_like(rank) if self.length is None else rank // self.length
        return block.masked_fill(~generated, NO_BLOCK)

    def parts(self, generated: Bool[Tensor, "b l"], steps: int | None) -> list[Part]:
        """The blocks in order, with the step budget of each; without a budget, a step for every position.

        Raises:
            BadArgument: there are fewer steps than blocks.
        """
        index = self.index(generated)
        blocks = index.masked_fill(~generated, -1).amax(1) + 1
        most = int(blocks.max()) if len(blocks) else 0
        if steps is not None and steps < most:
            raise BadArgument(self, "steps", steps, f"at least one for each of {most} blocks")
        parts = []
        for number in range(most):
            members = index == number
            if steps is None:
                share = members.sum(1)
            else:
                share = torch.where(number < blocks, steps // blocks.clamp(min=1), 0)
                share = share + (number < steps % blocks.clamp(min=1)).long()
            parts.append(Part(members, share))
        return parts
