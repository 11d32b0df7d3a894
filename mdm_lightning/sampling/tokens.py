"""Drawing tokens: temperature, top-k, top-p, banned tokens, and the exact inverse-CDF draw in float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mdm_lightning.arguments import BadArgument, check, check_numbers, finite


@dataclass(frozen=True)
class TokenSampler:
    """Draws one token per row of logits as the inverse CDF of its distribution at a given quantile.

    The filters apply in this order: banned tokens, temperature, top-k, top-p (of what top-k left, renormalised). Tokens
    that tie with the last one kept are kept too, so the result never depends on how a sort breaks ties.

    Args:
        temperature: divides the logits; 0 takes the most probable token (the first of equals).
        top_k: keep the k most probable tokens.
        top_p: keep the smallest set of most probable tokens whose mass reaches p (nucleus sampling, Holtzman et al.,
            2020).
        banned: tokens that are never drawn, such as the end-of-text token to force a full-length answer.

    Raises:
        ValueError: an option is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    banned: Sequence[int] = ()

    def __post_init__(self) -> None:
        check(self, "temperature", finite(self.temperature, 0), "finite and not negative")
        check_numbers(self, top_k=1)
        check(self, "top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]")
        # A tuple, whatever sequence the configuration brings: the object stays hashable and comparable.
        object.__setattr__(self, "banned", tuple(int(token) for token in self.banned))

    def check(self, vocab_size: int) -> None:
        """Raises:
        BadArgument: a banned token is outside the vocabulary of ``vocab_size`` tokens, or all are banned.
        """
        outside = [token for token in self.banned if not 0 <= token < vocab_size]
        if outside:
            raise BadArgument(self, "banned", outside, f"tokens of the vocabulary, from 0 to {vocab_size - 1}")
        if len(set(self.banned)) == vocab_size:
            raise BadArgument(self, "banned", list(self.banned), f"fewer than all {vocab_size} tokens")

    def suppress(self, logits: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """The logits with those of banned tokens at -inf."""
        if not self.banned:
            return logits
        logits = logits.clone()
        for token in self.banned:
            logits[:, token] = -math.inf
        return logits

    def draw(self, logits: Float[Tensor, "m d"], quantiles: Float64[Tensor, " m"]) -> Int64[Tensor, " m"]:
        """Tokens at ``quantiles`` in [0, 1) of the distributions given by ``logits`` (banned tokens at -inf)."""
        return most_probable(logits) if self.temperature == 0 else inverse_cdf(self._tempered(logits), quantiles)

    def log_probability(self, logits: Float[Tensor, "m d"], tokens: Int64[Tensor, " m"]) -> Float64[Tensor, " m"]:
        """Log-probability, in nats, with which ``draw`` draws the given tokens; -inf for what it never draws."""
        if self.temperature == 0:
            return torch.where(logits.argmax(1) == tokens, 0.0, -math.inf).double()
        tempered = self._tempered(logits).double()
        return tempered.gather(1, tokens[:, None]).squeeze(1) - tempered.logsumexp(1)

    def probabilities(self, logits: Float[Tensor, "m d"]) -> Float64[Tensor, "m d"]:
        """Probability of each token to be drawn."""
        if self.temperature == 0:
            return torch.zeros_like(logits, dtype=torch.float64).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
        return self._tempered(logits).double().softmax(1)

    def shape(self, logits: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """The logits after temperature, top-k and top-p; after the last two at temperature 0."""
        return self._truncate(logits) if self.temperature == 0 else self._tempered(logits)

    def _tempered(self, logits: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """The logits of the distribution that is drawn from, at a temperature above 0."""
        return self._truncate(logits if self.temperature == 1 else logits.double() / self.temperature)

    def _truncate(self, logits: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """Sets the logits outside top-k and top-p to -inf."""
        top_p = 1.0 if self.top_p is None else self.top_p
        if self.top_k is None and top_p == 1:
            return logits
        if self.top_k is None:
            largest = logits.sort(dim=1, descending=True).values
        else:
            largest = logits.topk(min(self.top_k, logits.shape[1]), dim=1).values
        least = largest[:, -1:]
        if top_p < 1:
            probability = largest.double().softmax(1)
            kept = (probability.cumsum(1) - probability) < top_p
            # Of a row with NaN none is kept: it must get as far as the caller, who reports it.
            least = largest.gather(1, kept.sum(1, keepdim=True).clamp(min=1) - 1)
        return logits.masked_fill(logits < least, -math.inf)


PIECE = 1024
"""Tokens that ``most_probable`` looks at at once."""


def most_probable(logits: Float[Tensor, "m d"]) -> Int64[Tensor, " m"]:
    """The most probable token of each row, the first of equals; of a row with NaN, the first NaN.

    It is ``argmax``, which on CPUs takes ten times as long as ``amax``: as much of a step as the matrix products of a
    layer. So the largest logit is looked for in the piece of the vocabulary that has it.
    """
    vocabulary = logits.shape[1]
    pieces = vocabulary // PIECE
    if pieces < 2:
        return logits.argmax(1)
    largest = logits[:, : pieces * PIECE].unflatten(1, (pieces, PIECE)).amax(2)
    if pieces * PIECE < vocabulary:
        largest = torch.cat([largest, logits[:, pieces * PIECE :].amax(1, keepdim=True)], dim=1)
    # The last piece, which is shorter, is looked at with what precedes it: nothing as large.
    start = (largest.argmax(1, keepdim=True) * PIECE).clamp(max=vocabulary - PIECE)
    piece = logits.gather(1, start + torch.arange(PIECE, device=logits.device))
    return start.squeeze(1) + piece.argmax(1)


def inverse_cdf(logits: Float[Tensor, "m d"], quantiles: Float64[Tensor, " m"]) -> Int64[Tensor, " m"]:
    """The token of each row whose interval of the cumulative distribution contains the row's quantile in [0, 1).

    One pass over the vocabulary, one number per row: no noise of the size of the vocabulary. In float64 whatever the
    precision of the logits, because lower precision sharpens the distribution (Zheng et al., 2024). A token of
    probability zero is never drawn. From a row that is no distribution (NaN, +inf, nothing finite) it takes a token
    whose logit shows it.
    """
    peak, mode = logits.max(dim=1, keepdim=True)
    cumulative = logits - peak.double()
    # In place: at this size, fresh memory costs as much as the arithmetic.
    cumulative.exp_().cumsum_(dim=1)
    token = torch.searchsorted(cumulative, quantiles[:, None] * cumulative[:, -1:], right=True)
    token = token.clamp_(max=logits.shape[1] - 1)
    # A parallel cumulative sum is monotone only up to rounding; this keeps its last digit from choosing a token.
    weight = (logits.gather(1, token) - peak.double()).exp()
    return torch.where(weight > 0, token, mode).squeeze(1)
