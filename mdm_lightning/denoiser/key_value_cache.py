"""Keys and values that are kept from one forward pass to the next, so that a pass computes some positions only."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64, Shaped
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

    One cache belongs to one batch of sequences, some of which may sit out a pass (``select``). Nothing is
    differentiated through what is kept.

    Args:
        length: positions per sequence.
        sequences: in the batch; None for as many as the first pass has.
    """

    def __init__(self, length: int, sequences: int | None = None) -> None:
        self.length = length
        self.sequences = sequences
        self._rows: Tensor | None = None
        self._slots = torch.zeros(0)
        self._known: Tensor | None = None
        self._complete = False
        self._kept: dict[object, Tensor] = {}

    def select(self, rows: Int64[Tensor, " b"] | None) -> None:
        """Says which sequences of the batch the coming passes are of; None for all."""
        self._rows = rows

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
        self._complete |= padding is None and positions.shape[1] == self.length and self._rows is None
        if self._known is None:
            sequences = self.sequences or batch
            self._known = torch.zeros(sequences, self.length + 1, dtype=torch.bool, device=positions.device)
        known = self._write(self._known, torch.ones_like(self._slots, dtype=torch.bool).expand(batch, -1))
        keys = torch.arange(self.length, device=positions.device)[None]
        return keys, None if self._complete else known[:, :-1]

    def layer(self, number: int) -> LayerCache:
        """A layer's part of the pass that has begun."""
        return partial(self._update, number)

    def _update(
        self, layer: int, keys: Float[Tensor, "b n l e"], values: Float[Tensor, "b n l e"]
    ) -> tuple[Float[Tensor, "b n k e"], Float[Tensor, "b n k e"]]:
        kept = (
            self._keep((layer, name), fresh.transpose(1, 2)) for name, fresh in (("keys", keys), ("values", values))
        )
        all_keys, all_values = (each[:, :-1].transpose(1, 2) for each in kept)
        return all_keys, all_values

    def from_predecessors(self, outputs: Float[Tensor, "b l h"]) -> Float[Tensor, "b l h"]:
        """Keeps the outputs of the pass that has begun; returns those of the positions before, in the rows of the
        positions that they predict. A position without a predecessor that was computed gets its own."""
        assert self._known is not None
        kept, known = self._keep("outputs", outputs), self._read(self._known)
        own = self._slots.expand(len(outputs), -1)
        before = (own - 1).clamp(min=0)
        rows = torch.where(known.gather(1, before), before, own)
        return kept.gather(1, rows[..., None].expand_as(outputs))

    def _keep(self, name: object, fresh: Float[Tensor, "b l *n"]) -> Float[Tensor, "b k+1 *n"]:
        if name not in self._kept:
            shape = (self.sequences or len(fresh), self.length + 1, *fresh.shape[2:])
            self._kept[name] = fresh.new_zeros(shape)
        return self._write(self._kept[name], fresh.detach())

    def _write(self, kept: Shaped[Tensor, "s k *n"], fresh: Shaped[Tensor, "b l *n"]) -> Shaped[Tensor, "b k *n"]:
        """Puts what is fresh into the slots of the pass that has begun; returns all slots of its sequences."""
        if self._rows is None and len(self._slots) == 1:
            return kept.index_copy_(1, self._slots[0], fresh)
        rows = torch.arange(len(kept), device=kept.device) if self._rows is None else self._rows
        kept[rows[:, None], self._slots] = fresh
        return self._read(kept)

    def _read(self, kept: Shaped[Tensor, "s k *n"]) -> Shaped[Tensor, "b k *n"]:
        return kept if self._rows is None else kept[self._rows]
