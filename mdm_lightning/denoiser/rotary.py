"""Rotary position embedding (Su et al., 2021), rotate-half form, in float32 whatever the precision of the weights."""

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

Rotation = tuple[Float32[Tensor, "c 1 l e/2"], Float32[Tensor, "c 1 l e/2"]]
"""Cosine and sine of the angles by which the pairs of channels turn, for all heads."""


class Rotary(nn.Module):
    """Angles of the positions; pair k of a head's e channels turns by ``position / theta^(2k / e)``.

    Args:
        head_dim: e, channels per head.
        theta: base of the frequencies.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta

    def forward(self, positions: Int64[Tensor, "c l"]) -> Rotation:
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device) / self.head_dim
        angle = (positions[..., None] * self.theta**-exponent)[:, None]
        return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "b n l e"], rotation: Rotation) -> Float[Tensor, "b n l e"]:
    """Turns the pairs (x_k, x_{k + e/2}) of queries or keys."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1).to(x.dtype)
