"""The forward process of block diffusion (BD3-LM, Arriola et al., 2025): each block of a sequence by diffusion."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from mdm_lightning.arguments import check, check_numbers
from mdm_lightning.diffusion.masking import ForwardProcess, MaskedBatch, NextToken


@dataclass(frozen=True)
class Blockwise:
    """Masks every block of a sequence as if it were a sequence, at a time of its own. Each is predicted with the blocks
    before it clean, as it is generated, so that the loss is

        NELBO(x) = sum over blocks b of NELBO(x^b | x^(<b)),

    the bound of a model with block-causal attention that generates block by block.

    The batch's ``alpha`` is the mean over the blocks, for logs: denoisers that look at it do not go with this.

    Args:
        process: masks a block.
        block_size: positions per block, counted from the beginning of the sequence; that of the denoiser's attention.

    Raises:
        ValueError: a block has no positions, or the process masks nothing or blocks.
    """

    process: ForwardProcess
    block_size: int

    def __post_init__(self) -> None:
        check_numbers(self, block_size=1)
        check(self, "process", not isinstance(self.process, NextToken | Blockwise), "one that masks whole sequences")

    @property
    def estimator(self) -> str:
        return f"NELBO of blocks of {self.block_size}, one after the other; in each: {self.process.estimator}"

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        maskable: Bool[Tensor, "b l"],
        mask_id: int,
        generator: torch.Generator,
        micro_batch: int = 0,
        micro_batches: int = 1,
    ) -> MaskedBatch:
        length = tokens.shape[1]
        padded = length + -length % self.block_size
        blocks = [F.pad(part, (0, padded - length)).reshape(-1, self.block_size) for part in (tokens, maskable)]
        batch = self.process(blocks[0], blocks[1], mask_id, generator, micro_batch, micro_batches)
        return batch._replace(
            tokens=batch.tokens.reshape(-1, padded)[:, :length],
            rows=torch.div(batch.rows, padded, rounding_mode="floor") * length + batch.rows % padded,
            alpha=batch.alpha.reshape(len(tokens), -1).mean(1),
            lengths=maskable.sum(1),
            clean=tokens,
            block_size=self.block_size,
        )
