"""The canvas: a batch of partly masked sequences while it is being filled."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from mdm_lightning.denoiser.base import NoDistribution
from mdm_lightning.sampling.blocks import NO_BLOCK
from mdm_lightning.sampling.plan import NEVER


class Canvas:
    """The mutable state of one sampling run, on the denoiser's device.

    Positions are addressed by flat indices: into the whole canvas, or into a selection of its sequences.

    Args:
        tokens: token ids, ``mask_id`` where not known yet.
        generated: positions to be filled; everything else stays as it is.
        block: block of each generated position, as Blocks.index numbers them.
        padding: positions that are not part of the sequences, if any.
        mask_id: id of MASK.
    """

    def __init__(
        self,
        tokens: Int64[Tensor, "b l"],
        generated: Bool[Tensor, "b l"],
        block: Int64[Tensor, "b l"],
        padding: Bool[Tensor, "b l"] | None,
        mask_id: int,
    ) -> None:
        self.tokens = tokens.clone()
        self.generated = generated
        self.block = block
        self.padding = padding
        self.mask_id = mask_id
        self.revealed_at = torch.full_like(tokens, -1)
        self._first_flaw = tokens.new_full((), NEVER)

    def unfinished(self) -> Int64[Tensor, " a"]:
        """Sequences with masked positions. Waits for the device."""
        return ((self.tokens == self.mask_id) & self.generated).any(1).nonzero().squeeze(1)

    def masked(self, sequences: Int64[Tensor, " a"]) -> Bool[Tensor, "a l"]:
        """Positions that are still to be filled."""
        return (self.tokens[sequences] == self.mask_id) & self.generated[sequences]

    def current_block(self, sequences: Int64[Tensor, " a"]) -> Int64[Tensor, " a"]:
        """First block of each sequence that has masked positions; NO_BLOCK when finished."""
        return self.block[sequences].masked_fill(~self.masked(sequences), NO_BLOCK).amin(1)

    def candidates(self, sequences: Int64[Tensor, " a"]) -> Int64[Tensor, " m"]:
        """Masked positions in the current block of each given sequence, as flat indices into those sequences.

        Waits for the device, which alone knows how many there are.
        """
        in_block = self.block[sequences] == self.current_block(sequences)[:, None]
        return (in_block & self.masked(sequences)).flatten().nonzero().squeeze(1)

    def masked_fraction(self, sequences: Int64[Tensor, " a"]) -> Float64[Tensor, " a"]:
        """Fraction of each sequence's generated positions that are masked."""
        return self.masked(sequences).sum(1).double() / self.generated[sequences].sum(1)

    def prompt(self, sequences: Int64[Tensor, " a"]) -> Bool[Tensor, "a l"]:
        """Positions that were given."""
        given = ~self.generated[sequences]
        return given if self.padding is None else given & ~self.padding[sequences]

    def lengths(self) -> Int64[Tensor, " b"]:
        """Positions of each sequence, without padding."""
        outside = torch.zeros_like(self.generated) if self.padding is None else self.padding
        return (~outside).sum(1)

    def places(self) -> Int64[Tensor, "b l"]:
        """Where each position stands in its sequence, counted without padding, as denoisers count (Transformer)."""
        outside = torch.zeros_like(self.generated) if self.padding is None else self.padding
        return ((~outside).cumsum(1) - 1).clamp(min=0)

    def kept_fraction(self, tokens: Int64[Tensor, "a l"], padding: Bool[Tensor, "a l"] | None) -> Float32[Tensor, " a"]:
        """Fraction of unmasked positions in sequences: what stands for alpha where no schedule says it."""
        kept = tokens != self.mask_id
        if padding is None:
            return kept.float().mean(1)
        return (kept & ~padding).sum(1) / (~padding).sum(1).clamp(min=1)

    def reveal(self, rows: Int64[Tensor, " m"], tokens: Int64[Tensor, " m"], step: int) -> None:
        """Writes tokens at flat indices of the canvas, where MASK leaves a position as it is."""
        self.tokens.view(-1)[rows] = tokens
        at = self.revealed_at.view(-1)
        at[rows] = torch.where(tokens == self.mask_id, at[rows], step)

    def watch(self, rows: Int64[Tensor, " m"], logits: Float[Tensor, " m"], step: int) -> None:
        """Remembers, on the device, the first step and position at which a drawn token's logit was not finite.

        A draw from logits that are no distribution always ends at such a token (``inverse_cdf``, ``argmax``).
        """
        place = torch.where(logits.isfinite(), NEVER, step * self.tokens.numel() + rows)
        self._first_flaw = torch.minimum(self._first_flaw, place.amin())

    def check(self, indices: Sequence[int]) -> None:
        """Waits for the device, once the sequences, of these indices, are filled.

        Raises:
            NoDistribution: a token was drawn from logits that are none.
        """
        first = int(self._first_flaw)
        if first != NEVER:
            step, row = divmod(first, self.tokens.numel())
            sequence, position = divmod(row, self.tokens.shape[1])
            raise NoDistribution(f"position {position} of sequence {indices[sequence]}, in step {step} (all from 0)")

    def remask(self, rows: Int64[Tensor, " m"]) -> None:
        """Masks the positions at flat indices of the canvas again."""
        self.tokens.view(-1).index_fill_(0, rows, self.mask_id)
