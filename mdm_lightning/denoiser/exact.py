"""The exact denoiser of a distribution that can be enumerated: an oracle for samplers and estimators."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser


class ExactDenoiser(Denoiser):
    """The conditionals p(x_i | unmasked tokens) of a distribution given as a list of sequences and their probabilities.

    In float64. A context of probability zero gives the uniform distribution. At an unmasked position the conditional
    given all unmasked tokens, its own included, puts all mass on it.

    Args:
        sequences: the N sequences with positive probability, of equal length l, without MASK.
        probabilities: their probabilities, normalised if they do not sum to one; equal when omitted.
        vocab_size: d; by default one more than the largest token.

    Raises:
        ValueError: the arguments do not describe a distribution.
    """

    sequences: Tensor
    probabilities: Tensor

    def __init__(
        self,
        sequences: Int64[Tensor, "n l"] | Sequence[Sequence[int]],
        probabilities: Float[Tensor, " n"] | Sequence[float] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        support = torch.as_tensor(sequences, dtype=torch.int64)
        if support.ndim != 2 or not support.numel():
            raise ValueError(f"ExactDenoiser: sequences must be of shape (n, l), got {tuple(support.shape)}")
        vocab_size = int(support.max()) + 1 if vocab_size is None else vocab_size
        if not 0 <= int(support.min()) <= int(support.max()) < vocab_size:
            raise ValueError(f"ExactDenoiser: a token is outside the vocabulary of {vocab_size} tokens")
        super().__init__(vocab_size, length=support.shape[1])
        if probabilities is None:
            probabilities = torch.ones(len(support))
        weights = torch.as_tensor(probabilities, dtype=torch.float64)
        if weights.shape != support.shape[:1] or not ((weights > 0) & weights.isfinite()).all():
            raise ValueError("ExactDenoiser: there must be one positive probability for each sequence")
        self.register_buffer("sequences", support)
        self.register_buffer("probabilities", weights / weights.sum())

    def forward(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float64[Tensor, "b l d"]:
        """The conditional probabilities at every position; positions in ``padding`` count as unknown.

        Raises:
            ValueError: the tokens have another length than the distribution.
        """
        if tokens.shape[1] != self.length:
            raise ValueError(
                f"ExactDenoiser: the distribution has length {self.length}, got sequences of {tokens.shape[1]}"
            )
        unknown = tokens == self.mask_id
        if padding is not None:
            unknown = unknown | padding
        fits = ((tokens[:, None] == self.sequences) | unknown[:, None]).all(dim=2)
        one_hot = F.one_hot(self.sequences, self.vocab_size).double()
        joint = torch.einsum("bn,nld->bld", fits * self.probabilities, one_hot)
        total = joint.sum(dim=2, keepdim=True)
        return torch.where(total > 0, joint / total, 1 / self.vocab_size)

    def head(self, hidden: Float64[Tensor, "m d"]) -> Float64[Tensor, "m d"]:
        return hidden.log()
