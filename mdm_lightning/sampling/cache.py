"""Key-value caching: which positions a step computes, and which it reads as they were computed before.

A denoiser of full attention lets every position read every other, so that whatever is revealed changes all keys and
values. Fast-dLLM (Wu et al., 2025) keeps them nevertheless: they change little. With block-causal attention nothing
that lies before the current block changes, and keeping it is exact.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.denoiser.attention import AttentionPattern
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.transformer import Transformer
from mdm_lightning.errors import UserError
from mdm_lightning.sampling.agenda import Work
from mdm_lightning.sampling.canvas import Canvas
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.passes import CachedPasses, Freshness, Passes, WholePasses


class CachePolicy(ABC):
    """What is kept between the steps of a sampling run."""

    @abstractmethod
    def passes(self, denoiser: Denoiser, canvas: Canvas, guidance: Guidance) -> Passes:
        """The network evaluations of one run.

        Raises:
            UserError: nothing can be kept of such a denoiser.
        """


@dataclass(frozen=True)
class NoCache(CachePolicy):
    """Nothing: every step computes all positions."""

    def passes(self, denoiser: Denoiser, canvas: Canvas, guidance: Guidance) -> Passes:
        return WholePasses(denoiser, canvas, guidance)


@dataclass(frozen=True)
class RefreshedCache(CachePolicy):
    """All positions are computed at the first step of each block, and in between those that ``between`` says.

    An approximation. What a step reads of the other positions was computed before the block's latest tokens were
    there.

    Args:
        every: all positions are computed every so many steps of a block, too; None for at its first step only. At 1
            nothing is kept, and the results are those without a cache.

    Raises:
        ValueError: ``every`` is not positive.
    """

    every: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, every=1)

    @abstractmethod
    def between(self, block: Int64[Tensor, "a l"], current: Int64[Tensor, " a"]) -> Bool[Tensor, "a l"]:
        """Positions that are computed between two refreshes.

        Args:
            block: of each position that is generated; NO_BLOCK elsewhere.
            current: the block that each sequence is at.
        """

    def passes(self, denoiser: Denoiser, canvas: Canvas, guidance: Guidance) -> Passes:
        return CachedPasses(_cacheable(denoiser), canvas, guidance, _Refreshing(self, canvas))


class _Refreshing(Freshness):
    """Which block each sequence was at in its last step, and how many steps ago all of it was computed."""

    def __init__(self, policy: RefreshedCache, canvas: Canvas) -> None:
        self._policy, self._canvas = policy, canvas
        self._block = torch.full_like(canvas.tokens[:, 0], -1)
        self._age = torch.zeros_like(self._block)

    def fresh(self, work: Work) -> Bool[Tensor, "a l"]:
        at, current = work.sequences, self._canvas.current_block(work.sequences)
        age = torch.where(current == self._block[at], self._age[at] + 1, 0)
        if self._policy.every is not None:
            age %= self._policy.every
        self._block[at], self._age[at] = current, age
        return self._policy.between(self._canvas.block[at], current) | (age == 0)[:, None]


@dataclass(frozen=True)
class PrefixCache(RefreshedCache):
    """Fast-dLLM's prefix cache: between refreshes, the current block and everything after it is computed."""

    def between(self, block: Int64[Tensor, "a l"], current: Int64[Tensor, " a"]) -> Bool[Tensor, "a l"]:
        return (block == current[:, None]).cumsum(1) > 0


@dataclass(frozen=True)
class DualCache(RefreshedCache):
    """Fast-dLLM's dual cache: between refreshes, the current block alone is computed."""

    def between(self, block: Int64[Tensor, "a l"], current: Int64[Tensor, " a"]) -> Bool[Tensor, "a l"]:
        return block == current[:, None]


@dataclass(frozen=True)
class ExactCache(CachePolicy):
    """No approximation: what reads no masked position any more is computed once more and then kept, and what the
    step's rows do not read is not computed at all.

    For attention that looks to the left only (block-causal, as of SDAR and Fast-dLLM v2, or causal), whatever the
    blocks of the sampler are.
    """

    def passes(self, denoiser: Denoiser, canvas: Canvas, guidance: Guidance) -> Passes:
        cacheable = _cacheable(denoiser)
        return CachedPasses(cacheable, canvas, guidance, _Settling(cacheable.attention, canvas))


class _Settling(Freshness):
    """Which positions were computed when all that they read, through others too, was known."""

    def __init__(self, pattern: AttentionPattern, canvas: Canvas) -> None:
        self._canvas, self._places = canvas, canvas.places()
        everywhere = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)[None]
        reads = pattern.reads(everywhere, everywhere)
        if reads is None:
            raise UserError(
                "ExactCache: all positions of this denoiser read each other, so that nothing can be kept without an "
                "approximation; choose cache=prefix or cache=dual"
            )
        self._reads = _closure(reads[0].float())
        self._settled = torch.zeros_like(canvas.generated)

    def fresh(self, work: Work) -> Bool[Tensor, "a l"]:
        at, places = work.sequences, self._places[work.sequences]
        open_ = self._spread(self._canvas.masked(at), places, self._reads.T)
        wanted = torch.zeros_like(open_)
        wanted.view(-1)[work.selected] = True
        fresh = self._spread(wanted, places, self._reads)
        settled = self._settled[at] & ~open_
        fresh &= ~settled
        self._settled[at] = settled | (fresh & ~open_)
        return fresh

    def _spread(
        self, marked: Bool[Tensor, "a l"], places: Int64[Tensor, "a l"], reach: Float[Tensor, "p p"]
    ) -> Bool[Tensor, "a l"]:
        """Positions that any of the marked ones reaches."""
        by_place = reach.new_zeros(len(marked), len(reach)).scatter_add_(1, places, marked.to(reach.dtype))
        return (by_place @ reach).gather(1, places) > 0


def _closure(reads: Float[Tensor, "p p"]) -> Float[Tensor, "p p"]:
    """1 where a position reads another, or one that reads it, and so on."""
    further = ((reads @ reads + reads) > 0).to(reads.dtype)
    return reads if torch.equal(further, reads) else _closure(further)


def _cacheable(denoiser: Denoiser) -> Transformer:
    if not isinstance(denoiser, Transformer):
        raise UserError(f"{type(denoiser).__name__} gives no keys and values that could be kept; choose cache=none")
    if denoiser.time_conditioning:
        raise UserError(
            f"this {type(denoiser).__name__} is conditioned on time, and keys and values of another time are not its "
            "own; choose cache=none"
        )
    return denoiser
