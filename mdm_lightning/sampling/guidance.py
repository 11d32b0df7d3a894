"""Classifier-free guidance: predictions pushed away from those without the prompt."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mdm_lightning.arguments import check, finite

IMPOSSIBLE = -1e30
"""Logit that stands for -inf in the difference of two."""


@dataclass(frozen=True)
class Guidance:
    """Logits un + (scale + 1) (cond - un), where un is predicted with the prompt masked (Nie et al., 2024; LLaDA).

    Args:
        scale: 0 for no guidance; otherwise every step evaluates the network twice.

    Raises:
        ValueError: the scale is not finite.
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        check(self, "scale", finite(self.scale), "finite")

    @property
    def passes(self) -> int:
        """Network evaluations per step."""
        return 1 if self.scale == 0 else 2

    def contexts(self, tokens: Int64[Tensor, "a l"], prompt: Bool[Tensor, "a l"], mask_id: int) -> Int64[Tensor, "c l"]:
        """What the denoiser sees: the sequences, followed by the sequences without their prompts."""
        if self.passes == 1:
            return tokens
        return torch.cat([tokens, tokens.masked_fill(prompt, mask_id)])

    def combine(self, logits: Float[Tensor, "g m d"]) -> Float[Tensor, "m d"]:
        """Guided logits, in float64, from those of the contexts; without guidance, the logits as they are."""
        if self.passes == 1:
            return logits[0]
        # A probability of zero stays zero without inf - inf, whichever of the two it is in.
        conditional, unconditional = logits.double().clamp(min=IMPOSSIBLE)
        guided = unconditional + (self.scale + 1) * (conditional - unconditional)
        return guided.masked_fill(guided < -math.sqrt(-IMPOSSIBLE), -math.inf)
