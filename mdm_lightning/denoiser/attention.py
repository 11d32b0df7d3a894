"""Attention patterns: which positions of a sequence read which."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from mdm_lightning.arguments import check_numbers


class AttentionPattern(ABC):
    """Which positions of its sequence a position reads. Padding is never read, whatever the pattern."""

    @abstractmethod
    def reads(self, queries: Int64[Tensor, "c q"], keys: Int64[Tensor, "c k"]) -> Bool[Tensor, "c q k"] | None:
        """True where the position of a query reads that of a key; None if every position reads every other."""


@dataclass(frozen=True)
class Full(AttentionPattern):
    """Every position reads every other: the attention of MDLM, LLaDA and Dream. It needs no mask."""

    def reads(self, queries: Int64[Tensor, "c q"], keys: Int64[Tensor, "c k"]) -> None:
        return None


@dataclass(frozen=True)
class Causal(AttentionPattern):
    """Every position reads itself and those before it: the attention of autoregressive models."""

    def reads(self, queries: Int64[Tensor, "c q"], keys: Int64[Tensor, "c k"]) -> Bool[Tensor, "c q k"]:
        return keys[:, None] <= queries[..., None]


@dataclass(frozen=True, eq=False)
class Opening(AttentionPattern):
    """Causal attention on its way to another pattern: of what that one reads ahead, some places are open already.

    Args:
        final: the other pattern.
        ahead: which places are open, by the positions of queries and keys.
    """

    final: AttentionPattern
    ahead: Bool[Tensor, "l l"]

    def reads(self, queries: Int64[Tensor, "c q"], keys: Int64[Tensor, "c k"]) -> Bool[Tensor, "c q k"]:
        seen = Causal().reads(queries, keys) | self.ahead[queries[..., None], keys[:, None]]
        final = self.final.reads(queries, keys)
        return seen if final is None else seen & final


@dataclass(frozen=True)
class BesideClean(AttentionPattern):
    """Two copies of a sequence, one after the other: the first reads its own block, and of the second, which is clean,
    the blocks before it; the second reads itself, block by block (Arriola et al., 2025, section 4 and appendix B).

    So one pass gives what block-causal attention gives in one pass for each block.

    Args:
        block_size: positions per block.
    """

    block_size: int

    def reads(self, queries: Int64[Tensor, "c q"], keys: Int64[Tensor, "c k"]) -> Bool[Tensor, "c q k"]:
        at = torch.arange(keys.shape[1], device=keys.device)
        clean = at >= len(at) // 2
        of_query, of_key = queries[..., None] // self.block_size, keys[:, None] // self.block_size
        same, clean_query = of_key == of_query, clean[:, None]
        return torch.where(clean, (of_key < of_query) | (same & clean_query), same & ~clean_query)


@dataclass(frozen=True)
class BlockCausal(AttentionPattern):
    """Every position reads its own block and those before it: block diffusion (Arriola et al., 2025) as it generates.

    Args:
        block_size: positions per block, counted from the beginning of the sequence.

    Raises:
        ValueError: a block has no positions.
    """

    block_size: int

    def __post_init__(self) -> None:
        check_numbers(self, block_size=1)

    def reads(self, queries: Int64[Tensor, "c q"], keys: Int64[Tensor, "c k"]) -> Bool[Tensor, "c q k"]:
        return keys[:, None] // self.block_size <= queries[..., None] // self.block_size
