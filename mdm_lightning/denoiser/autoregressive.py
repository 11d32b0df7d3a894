"""The autoregressive twin of the DiT: the same network, in which every position reads those before it alone."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from mdm_lightning.denoiser.attention import Causal
from mdm_lightning.denoiser.base import Denoiser, ShapeOf
from mdm_lightning.denoiser.dit import DiT


class Autoregressive(Denoiser):
    """Predicts p(x_i | x_0, ..., x_{i-1}) at every position, by a DiT with causal attention whose input is shifted by
    one position; MASK stands for the beginning.

    One forward pass over a text gives its exact log-likelihood (the forward process ``NextToken``), which makes it the
    reference that generated text is scored by. As a denoiser it is good for one order, from left to right.

    Args:
        vocab_size: see Denoiser.
        length: see Denoiser.
        hidden_size, depth, heads, cond_dim, mlp_ratio, tie_weights, activation_checkpointing: see DiT.

    Raises:
        ValueError: the sizes do not fit together.
    """

    autoregressive = True

    def __init__(
        self,
        vocab_size: int,
        length: int,
        *,
        hidden_size: int,
        depth: int,
        heads: int,
        cond_dim: int = 128,
        mlp_ratio: int = 4,
        tie_weights: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(vocab_size, length)
        self.network = DiT(
            vocab_size, length, hidden_size=hidden_size, depth=depth, heads=heads, cond_dim=cond_dim,
            mlp_ratio=mlp_ratio, tie_weights=tie_weights, attention=Causal(),
            activation_checkpointing=activation_checkpointing,
        )  # fmt: skip

    def forward(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        before = F.pad(tokens[:, :-1], (1, 0), value=self.mask_id)
        if padding is not None:  # what comes before a position may stand some way off
            places = torch.arange(tokens.shape[1], device=tokens.device).masked_fill(padding, -1)
            last = F.pad(places[:, :-1], (1, 0), value=-1).cummax(dim=1).values
            before = tokens.gather(1, last.clamp(min=0)).masked_fill(last < 0, self.mask_id)
        return self.network(before, None, padding)

    def head(self, hidden: Float[Tensor, "m h"]) -> Float[Tensor, "m d"]:
        return self.network.head(hidden)

    @property
    def recomputes_logits(self) -> bool:
        return self.network.recomputes_logits

    def cross_entropy(self, hidden: Float[Tensor, "m h"], targets: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        return self.network.cross_entropy(hidden, targets)

    @classmethod
    def sizes(cls, shape: ShapeOf) -> dict[str, int]:
        return DiT.sizes(lambda name: shape(f"network.{name}"))

    def shards(self) -> Iterable[nn.Module]:
        return self.network.shards()

    def forward_flops(self, length: int) -> tuple[float, float]:
        return self.network.forward_flops(length)
