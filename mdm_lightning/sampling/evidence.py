"""What the predictions at masked positions say about them: confidence, margin, entropy."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Masked positions, in no particular order, with the tokens that have been drawn for them."""

    logits: Float[Tensor, "m d"]
    """Untempered and untruncated, banned tokens at -inf, in the precision that they came in."""
    tokens: Int64[Tensor, " m"]
    """The token that each position would be revealed as."""
    times: Float64[Tensor, " m"]
    """Reveal times u_i of the positions."""
    positions: Int64[Tensor, " m"]
    """Their places in the sequence."""
    masked: Float64[Tensor, " m"]
    """Fraction of their sequence's generated positions that are still masked."""
    ranks: Int64[Tensor, " m"]
    """Their places in a static order, of the block that they belong to; all 0 if the order is none."""

    @cached_property
    def confidence(self) -> Float64[Tensor, " m"]:
        """Probability of the drawn token: orders and counts may both ask for it."""
        return confidence(self.logits, self.tokens)


def confidence(logits: Float[Tensor, "m d"], tokens: Int64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Probability of the drawn token, whatever the temperature it was drawn at."""
    return log_confidence(logits, tokens).exp()


SMALLEST = -80.0
"""Least difference to the largest logit, in nats: what lies below is 1e-35 of it, and slow to compute with."""


def log_confidence(logits: Float[Tensor, "m d"], tokens: Int64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Log-probability of the drawn token, in nats.

    The other tokens' mass is summed apart from the drawn one's, in float32 for logits of that or a lower precision: its
    relative error is about 1e-6, and so is that of 1 - confidence, however close to 1 that is. The largest
    tensor of a step is thus not copied to float64, which took longer than all else that is done with it.
    """
    drawn, largest = tokens[:, None], logits.amax(1, keepdim=True)
    own = (logits.gather(1, drawn).double() - largest.double()).squeeze(1)
    # In place: at this size, fresh memory costs as much as the arithmetic.
    others = logits - largest.to(torch.promote_types(logits.dtype, torch.float32))
    others = others.clamp_(min=SMALLEST).exp_().scatter_(1, drawn, 0).sum(1).double()
    return own - (own.exp() + others).log()


def largest_probability(logits: Float[Tensor, "m d"]) -> Float64[Tensor, " m"]:
    """Probability of the most probable token."""
    return confidence(logits, logits.argmax(1))


def margin(logits: Float[Tensor, "m d"]) -> Float64[Tensor, " m"]:
    """Difference of the two largest probabilities; 1 if there is but one token."""
    two = logits.topk(min(2, logits.shape[1]), dim=1)
    first = log_confidence(logits, two.indices[:, 0])
    further = (two.values[:, 0].double() - two.values[:, -1].double()) if two.values.shape[1] == 2 else torch.inf
    return first.exp() * -torch.expm1(-torch.as_tensor(further))


def entropy(logits: Float[Tensor, "m d"]) -> Float64[Tensor, " m"]:
    """Entropy of the prediction, in nats."""
    return torch.special.entr(logits.double().softmax(1)).sum(1)
