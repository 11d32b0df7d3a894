"""What the transformers share: where their tokens stand, which of them read which, and running the blocks."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdm_lightning.arguments import BadArgument
from mdm_lightning.denoiser.attention import AttentionPattern, BesideClean, BlockCausal, Full
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.key_value_cache import KeyValueCache
from mdm_lightning.errors import UserError

LARGEST = 2**24
"""Of any size: sixteen million tokens, positions or channels. More is a slip or a trap."""

Visible = Bool[Tensor, "c 1 r k"] | None
"""Which keys each query reads, in all heads alike, as ``scaled_dot_product_attention`` takes it; None for all."""


class Transformer(Denoiser):
    """A denoiser of attention blocks.

    Args:
        vocab_size: see Denoiser.
        length: see Denoiser.
        attention: which positions read which; all read all by default.
        activation_checkpointing: recompute each block in the backward pass, to save memory.
    """

    blocks: nn.ModuleList
    shifted = False
    """Whether output i - 1 predicts position i."""
    time_conditioning: bool = False
    """Whether hidden states depend on alpha."""

    def __init__(
        self, vocab_size: int, length: int, attention: AttentionPattern | None, activation_checkpointing: bool
    ) -> None:
        super().__init__(vocab_size, length)
        self.attention = attention or Full()
        self.activation_checkpointing = activation_checkpointing

    @property
    def block_size(self) -> int | None:
        if not isinstance(self.attention, BlockCausal) or self.time_conditioning:  # each block has a time of its own
            return None
        return self.attention.block_size

    @abstractmethod
    def forward(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
        *,
        positions: Int64[Tensor, "c l"] | None = None,
        attention: AttentionPattern | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b l h"]:
        """Hidden states after the final norm, in the rows of the positions that they predict.

        Args:
            tokens: token ids, ``mask_id`` where unknown.
            alpha: see Denoiser.forward.
            padding: True at positions that are not part of the sequence and that nothing may attend to.
            positions: where each token stands in its sequence, of all sequences (c = 1) or of each. By default they
                are counted from the first token that is no padding, so that padding on the left, on the right or in
                between gives the hidden states of the sequence by itself.
            attention: instead of the denoiser's own pattern.
            cache: what is kept of other positions of the same sequences, which ``tokens`` then read, too; what is
                computed of theirs is added to it.

        Raises:
            ValueError: the sequences, or those of the cache, are longer than ``length``.
        """

    def place(
        self,
        tokens: Int64[Tensor, "b l"],
        padding: Bool[Tensor, "b l"] | None,
        positions: Int64[Tensor, "c l"] | None,
        attention: AttentionPattern | None,
        cache: KeyValueCache | None,
    ) -> tuple[Int64[Tensor, "c l"], Visible]:
        """The positions of the tokens, and which keys they read; for the arguments see ``forward``."""
        if positions is None:
            positions = self.counted(tokens, padding)
        if cache is None:
            keys, there = positions, None if padding is None else ~padding
        else:
            if cache.length > self.length:
                raise ValueError(f"a cache of {cache.length} positions is beyond the model's length {self.length}")
            keys, there = cache.begin(positions, padding, len(tokens))
        reads = (attention or self.attention).reads(positions, keys)
        if there is None or reads is None:
            visible = reads if there is None else there[:, None]
        else:
            visible = reads & there[:, None]
        return positions, None if visible is None else visible[:, None]

    def counted(self, tokens: Int64[Tensor, "b l"], padding: Bool[Tensor, "b l"] | None) -> Int64[Tensor, "c l"]:
        """Positions counted from the first token that is no padding.

        Raises:
            ValueError: there are more than ``length``.
        """
        length = self.check_length(tokens)
        if padding is None:
            return torch.arange(length, device=tokens.device)[None]
        return ((~padding).cumsum(1) - 1).clamp(min=0)

    def beside_clean(
        self,
        tokens: Int64[Tensor, "b l"],
        clean: Int64[Tensor, "b l"],
        block_size: int,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        if self.attention != BlockCausal(block_size):
            raise UserError(
                f"blockwise masks with blocks of {block_size} are for attention@model.attention=block_causal "
                f"model.attention.block_size={block_size}: the model has {self.attention}"
            )
        positions = self.counted(tokens, padding)
        hidden = self(
            torch.cat([tokens, clean], dim=1),
            padding=None if padding is None else padding.repeat(1, 2),
            positions=positions.repeat(1, 2),
            attention=BesideClean(block_size),
        )
        noisy, known = hidden.chunk(2, dim=1)
        if not self.shifted:
            return noisy
        # What predicts a block's first position stands in the block before, which is clean.
        first = (positions % block_size == 0) & (positions > 0)
        return torch.where(first[..., None], known, noisy)

    def run_blocks(
        self, x: Float[Tensor, "b l h"], *context: object, cache: KeyValueCache | None
    ) -> Float[Tensor, "b l h"]:
        """The blocks one after the other; ``context`` is what each of them gets beside the hidden states."""
        for number, block in enumerate(self.blocks):
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(block, x, *context, use_reentrant=False)
            else:
                x = block(x, *context) if cache is None else block(x, *context, cache.layer(number))
        return x

    def check_sizes(self, **sizes: int) -> None:
        """For constructors.

        Raises:
            BadArgument: a size is not positive, or too large.
        """
        for name, value in ({"vocab_size": self.vocab_size, "length": self.length} | sizes).items():
            if value < 1:
                raise BadArgument(self, name, value, "at least 1")
            if value > LARGEST:
                raise BadArgument(self, name, value, f"at most {LARGEST:,}")

    def head_width(self, hidden_size: int, heads: int) -> int:
        """Channels of each head that share ``hidden_size``.

        Raises:
            ValueError: they do not share it evenly, or not in pairs, as rotary embeddings want them.
        """
        if hidden_size % heads or (hidden_size // heads) % 2:
            raise ValueError(
                f"{type(self).__name__}: hidden_size {hidden_size} must be an even multiple of heads {heads}"
            )
        return hidden_size // heads

    def shards(self) -> Iterable[nn.Module]:
        return self.blocks
