"""What the predictions at masked positions say about them: confidence, margin, entropy."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


class Candidates(NamedTuple):
    """Masked positions, in no particular order, with the tokens that have been drawn for them."""

    logits: Float64[Tensor, "m d"]
    """Untempered and untruncated, banned tokens at -inf."""
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


def confidence(logits: Float64[Tensor, "m d"], tokens: Int64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Probability of the drawn token, whatever the temperature it was drawn at."""
    return log_confidence(logits, tokens).exp()


def log_confidence(logits: Float64[Tensor, "m d"], tokens: Int64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Log-probability of the drawn token, in nats."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1)


def largest_probability(logits: Float64[Tensor, "m d"]) -> Float64[Tensor, " m"]:
    """Probability of the most probable token."""
    return (logits.amax(1) - logits.logsumexp(1)).exp()


def margin(logits: Float64[Tensor, "m d"]) -> Float64[Tensor, " m"]:
    """Difference of the two largest probabilities; 1 if there is but one token."""
    two = logits.topk(min(2, logits.shape[1]), dim=1).values
    probability = (two - logits.logsumexp(1, keepdim=True)).exp()
    return probability[:, 0] if probability.shape[1] == 1 else probability[:, 0] - probability[:, 1]


def entropy(logits: Float64[Tensor, "m d"]) -> Float64[Tensor, " m"]:
    """Entropy of the prediction, in nats."""
    return torch.special.entr(logits.softmax(1)).sum(1)
