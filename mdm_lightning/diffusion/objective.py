"""The NELBO of a masked diffusion model: the one estimator that training and evaluation share.

    NELBO(x) = E_t [ dalpha_t / (1 - alpha_t) * sum over masked i of -log p(x_i | unmasked tokens) ]

in nats per sequence (paper, eq. 3). Its expectation does not depend on the schedule, only its variance does. The weight
stands inside the sum where positions have times of their own.
"""

import math
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from mdm_lightning.diffusion.masking import MaskedBatch


class PredictsMaskedTokens(Protocol):
    """What the objective asks of a denoiser (mdm_lightning.denoiser.base.Denoiser provides it)."""

    def __call__(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Tensor: ...

    def beside_clean(
        self,
        tokens: Int64[Tensor, "b l"],
        clean: Int64[Tensor, "b l"],
        block_size: int,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Tensor: ...

    def cross_entropy(self, hidden: Float[Tensor, "m h"], targets: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]: ...


class Nelbo(NamedTuple):
    """A NELBO estimate, in nats."""

    per_sequence: Float32[Tensor, " b"]
    """Estimate of each sequence's NELBO: an unbiased upper bound on -log p(x) in expectation."""
    cross_entropy: Float32[Tensor, " b"]
    """Sum of -log p(x_i) over each sequence's masked positions, unweighted."""
    masks: Float32[Tensor, " b"]
    """Number of masked positions in each sequence."""
    answer: Float32[Tensor, " b"] | None = None
    """What of ``per_sequence`` is for positions of the answer, up to and including its first EOS (``MaskedBatch``)."""


def nelbo(denoiser: PredictsMaskedTokens, batch: MaskedBatch) -> Nelbo:
    """One-sample estimate of the NELBO of every sequence in the batch.

    The head runs on masked rows only. A sequence without masked positions contributes an exact zero.
    """
    loss = losses(denoiser, batch)
    sequence = torch.div(batch.rows, batch.tokens.shape[1], rounding_mode="floor")
    zeros = torch.zeros_like(batch.alpha)  # float64 where Lightning's 64-true made the batch so
    loss = loss.to(zeros.dtype)
    cross_entropy = zeros.index_add(0, sequence, loss)
    masks = zeros.index_add(0, sequence, torch.ones_like(loss))
    weighted = loss * batch.weight
    answer = None if batch.answer is None else zeros.index_add(0, sequence, weighted * batch.answer)
    return Nelbo(zeros.index_add(0, sequence, weighted), cross_entropy, masks, answer)


def losses(denoiser: PredictsMaskedTokens, batch: MaskedBatch) -> Float32[Tensor, " m"]:
    """The cross-entropy at every masked position, in nats."""
    if batch.clean is None or batch.block_size is None:
        hidden = denoiser(batch.tokens, batch.alpha, batch.padding)
    else:
        hidden = denoiser.beside_clean(batch.tokens, batch.clean, batch.block_size, batch.padding)
    return denoiser.cross_entropy(hidden.flatten(0, 1).index_select(0, batch.rows), batch.targets)


def perplexity(nats_per_token: float) -> float:
    """exp of the NELBO per token: an upper bound on the perplexity."""
    return math.inf if nats_per_token >= 700 else math.exp(nats_per_token)


def bits_per_byte(nats_per_position: float, bytes_per_position: float) -> float:
    """Bits per byte of UTF-8 text from nats per token position: comparable between tokenizers."""
    return nats_per_position / (math.log(2) * bytes_per_position)
