"""Keys and values that are kept from one forward pass to the next, so that a pass computes some positions only."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

LayerCache = Callable[
    [Float[Tensor, "b n l e"], Float[Tensor, "b n l e"]], tuple[Float[Tensor, "b n k e"], Float[Tensor, "b n k e"]]
]
"""Keeps a layer's keys and values of a pass, and returns those of all positions."""


class KeyValueCache:
    """Keys and values of every layer, and the last layer's outputs, at the positions that were computed so far.

    A pass over some positions replaces what is kept of them; of the others it reads what is kept, as it was computed,
    whatever stands there by now. When to compute a position anew is up to the caller. With block-causal attention and
    blocks that are computed in their order, nothing that is kept ever goes stale, and a pass gives what it would
    without a cache. With full attention the caller chooses: Fast-dLLM (Wu et al., 2025) computes all positions once
    per block, and in between the block with everything after it (prefix cache), or the block alone (dual cache).

    One cache belongs to one batch of sequences. Nothing is differentiated through what is kept.

    Args:
        length: positions per sequence.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._slots = torch.zeros(0)
        self._known: Tensor | None = None
        self._complete = False
        self._kept: dict[object, Tensor] = {}

    def begin(
        self, positions: Int64[Tensor, "c l"], padding: Bool[Tensor, "b l"] | None, batch: int
    ) -> tuple[Int64[Tensor, "1 k"], Bool[Tensor, "b k"] | None]:
        """The beginning of a pass over ``positions``, different ones in each sequence.

        Returns:
            the positions of all keys, and which of them are kept or about to be; None for all.

        Raises:
            ValueError: there are more positions than ``length``.
        """
        if positions.shape[1] > self.length:
            raise ValueError(f"{positions.shape[1]} positions are more than the {self.length} of the cache")
        # What is kept of padding lies in a slot of its own, the last, which nothing reads.
        self._slots = positions if padding is None else positions.masked_fill(padding, self.length)
        self._complete |= padding is None and positions.shape[1] == self.length
        if self._known is None:
            self._known = torch.zeros(batch, self.length + 1, dtype=torch.bool, device=positions.device)
        self._known.scatter_(1, self._slots.expand(batch, -1), True)
        keys = torch.arange(self.length, device=positions.device)[None]
        return keys, None if self._complete else self._known[:, :-1]

    def layer(self, number: int) -> LayerCache:
        """A layer's part of the pass that has begun."""
        return partial(self._update, number)

    def _update(
        self, layer: int, keys: Float[Tensor, "b n l e"], values: Float[Tensor, "b n l e"]
    ) -> tuple[Float[Tensor, "b n k e"], Float[Tensor, "b n k e"]]:
        kept = self._keep((layer, "keys"), keys), self._keep((layer, "values"), values)
        return kept[0][:, :, :-1], kept[1][:, :, :-1]

    def from_predecessors(self, outputs: Float[Tensor, "b l h"]) -> Float[Tensor, "b l h"]:
        """Keeps the outputs of the pass that has begun; returns those of the positions before, in the rows of the
        positions that they predict. A position without a predecessor that was computed gets its own."""
        assert self._known is not None
        kept = self._keep("outputs", outputs[:, None])[:, 0]
        own = self._slots.expand(len(outputs), -1)
        before = (own - 1).clamp(min=0)
        rows = torch.where(self._known.gather(1, before), before, own)
        return kept.gather(1, rows[..., None].expand_as(outputs))

    def _keep(self, name: object, fresh: Float[Tensor, "b n l e"]) -> Float[Tensor, "b n k+1 e"]:
        batch, heads, _, size = fresh.shape
        if name not in self._kept:
            self._kept[name] = fresh.new_zeros(batch, heads, self.length + 1, size)
        kept, fresh = self._kept[name], fresh.detach()
        if len(self._slots) == 1:
            return kept.index_copy_(2, self._slots[0], fresh)
        return kept.scatter_(2, self._slots[:, None, :, None].expand_as(fresh), fresh)
