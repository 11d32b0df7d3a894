"""The diffusion transformer of MDLM (Sahoo et al., 2024; after Peebles & Xie, 2023), whole, in one file.

Parameter names and shapes are MDLM's published layout, so that its weights fit, with one difference: the output layer
has no row for MASK (the last row of the published one is dropped), because MASK is never predicted.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdm_lightning.denoiser.base import Denoiser, ShapeOf, stored_depth, stored_size

FREQUENCIES = 256  # size of the sinusoidal embedding of the noise level

LOGITS_AT_ONCE = 2**26  # 256 MiB in float32; measured fastest at V = 50k among 2^23 ... 2^26

# alpha is clipped here before the time embedding: -log(alpha) stays within the range MDLM was trained on.
MIN_CONDITIONING_ALPHA = 1e-3

Rotation = tuple[Float32[Tensor, "l e/2"], Float32[Tensor, "l e/2"]]


class DiT(Denoiser):
    """Bidirectional transformer with rotary attention and adaptive layer norm.

    Args:
        vocab_size: d, number of ordinary tokens (MASK, id d, is added to the input embedding only).
        length: longest sequence accepted.
        hidden_size: width; a multiple of ``heads``, with an even width per head.
        depth: number of blocks.
        heads: attention heads per block.
        cond_dim: width of the conditioning vector behind the modulation.
        mlp_ratio: width of the MLP over ``hidden_size``.
        time_conditioning: condition on the noise level. Off, the model is time-agnostic (RADD, Ou et al., 2025): the
            conditioning vector is a constant, and the modulation is computed once, not per sequence.
        tie_weights: share the input embedding with the output layer.
        activation_checkpointing: recompute each block in the backward pass, to save memory.

    Raises:
        ValueError: the sizes do not fit together.
    """

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
        time_conditioning: bool = False,
        tie_weights: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(vocab_size, length)
        self.check_sizes(hidden_size=hidden_size, depth=depth, heads=heads, cond_dim=cond_dim, mlp_ratio=mlp_ratio)
        self.time_conditioning = time_conditioning
        self.activation_checkpointing = activation_checkpointing
        self.vocab_embed = TokenEmbedding(vocab_size + 1, hidden_size)
        self.sigma_map = NoiseLevelEmbedding(cond_dim)
        self.rotary_emb = Rotary(hidden_size // heads)
        self.blocks = nn.ModuleList(Block(hidden_size, heads, cond_dim, mlp_ratio) for _ in range(depth))
        self.output_layer = OutputLayer(hidden_size, vocab_size, cond_dim, tied=tie_weights)

    def forward(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        """Hidden states after the final norm. See Denoiser.forward.

        Raises:
            ValueError: the sequences are longer than ``length``.
        """
        length = self.check_length(tokens)
        condition = self._condition(alpha)
        rotation = self.rotary_emb(length)
        visible = None if padding is None else ~padding[:, None, None, :]
        x = self.vocab_embed(tokens)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, condition, rotation, visible, use_reentrant=False)
            else:
                x = block(x, condition, rotation, visible)
        return self.output_layer.norm(x, condition)

    def _condition(self, alpha: Float32[Tensor, " b"] | None) -> Float[Tensor, "b c"]:
        """Conditioning vectors: one per sequence, or a single one (batch size 1) for a time-agnostic model."""
        if not self.time_conditioning:
            sigma = torch.zeros(1, device=self.rotary_emb.inv_freq.device)
        elif alpha is None:
            raise ValueError("this denoiser is conditioned on time: pass alpha, the kept fraction of each sequence")
        else:
            sigma = -alpha.clamp(min=MIN_CONDITIONING_ALPHA).log()
        return F.silu(self.sigma_map(sigma))

    @property
    def head_weight(self) -> Float[Tensor, "d h"]:
        own = self.output_layer.linear.weight
        return self.vocab_embed.embedding[: self.vocab_size] if own is None else own

    def head(self, hidden: Float[Tensor, "m h"]) -> Float[Tensor, "m d"]:
        return F.linear(hidden, self.head_weight, self.output_layer.linear.bias)

    def cross_entropy(self, hidden: Float[Tensor, "m h"], targets: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """As Denoiser.cross_entropy, with the logits of at most ``LOGITS_AT_ONCE / d`` rows in memory where possible.

        torch's fused linear_cross_entropy (2.13) returns the precision it is given: in bfloat16 that rounds a loss of 8
        nats by up to 0.03 and shifts the mean by 0.003, so it serves float32 only. In lower precision, activation
        checkpointing bounds the memory at the cost of computing the logits twice.
        """
        rows = max(1, LOGITS_AT_ONCE // self.vocab_size)
        if len(hidden) <= rows:
            return super().cross_entropy(hidden, targets)
        full_precision = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type)
        if full_precision and hasattr(F, "linear_cross_entropy"):
            return F.linear_cross_entropy(
                hidden,
                self.head_weight,
                targets,
                linear_bias=self.output_layer.linear.bias,
                reduction="none",
                # The automatic choice cuts chunks of ten rows at V = 50k, five times slower than no chunks at all.
                options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows),
            )
        if self.activation_checkpointing and torch.is_grad_enabled():
            cross_entropy = super().cross_entropy  # a bare super() does not work inside a comprehension
            chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
            return torch.cat([checkpoint(cross_entropy, h, y, use_reentrant=False) for h, y in chunks])
        return super().cross_entropy(hidden, targets)

    @classmethod
    def sizes(cls, shape: ShapeOf) -> dict[str, int]:
        hidden_size = stored_size(shape, "vocab_embed.embedding", axis=1)
        return {
            "vocab_size": stored_size(shape, "vocab_embed.embedding") - 1,
            "hidden_size": hidden_size,
            "depth": stored_depth(shape, "blocks.{}.norm1.weight"),
            "cond_dim": stored_size(shape, "sigma_map.mlp.2.weight"),
            "mlp_ratio": stored_size(shape, "blocks.0.mlp.0.weight") // max(1, hidden_size),
        }

    def shards(self) -> Iterable[nn.Module]:
        return self.blocks

    def forward_flops(self, length: int) -> tuple[float, float]:
        linear = sum(
            module.weight.numel()
            for name, module in self.blocks.named_modules()
            if isinstance(module, nn.Linear) and not name.endswith("adaLN_modulation")
        )
        hidden_size = self.vocab_embed.embedding.shape[1]
        attention = 2 * length * hidden_size * len(self.blocks)  # scores, and the weighted sum of values
        return 2.0 * (linear + attention), 2.0 * hidden_size * self.vocab_size


class TokenEmbedding(nn.Module):
    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(rows, hidden_size))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, tokens: Int64[Tensor, "b l"]) -> Float[Tensor, "b l h"]:
        return F.embedding(tokens, self.embedding)


class NoiseLevelEmbedding(nn.Module):
    """Sinusoidal embedding of sigma = -log(alpha), then a two-layer MLP."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        half = FREQUENCIES // 2
        frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=sigma.device) / half)
        angle = sigma[:, None] * frequency
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1).to(next(self.parameters()).dtype))


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021), rotate-half form, computed in float32."""

    inv_freq: Tensor

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.base = base
        self.register_buffer("inv_freq", self._frequencies(torch.device("cpu")))

    def _frequencies(self, device: torch.device) -> Float32[Tensor, " e/2"]:
        return self.base ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device) / self.head_dim)

    def forward(self, length: int) -> Rotation:
        position = torch.arange(length, device=self.inv_freq.device, dtype=torch.float32)
        # Not the buffer, which is kept for MDLM's layout: a model converted to bfloat16 rounds it, and at position
        # 1,000 a rounded frequency is another angle.
        angle = torch.outer(position, self._frequencies(position.device))
        return angle.cos(), angle.sin()


def _rotate(x: Float[Tensor, "b n l e"], rotation: Rotation) -> Float[Tensor, "b n l e"]:
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1).to(x.dtype)


class AdaptiveLayerNorm(nn.Module):
    """Layer norm with a weight and no bias, times 1 + scale plus shift, computed in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(
        self, x: Float[Tensor, "b l h"], shift: Float[Tensor, "c 1 h"], scale: Float[Tensor, "c 1 h"]
    ) -> Float[Tensor, "b l h"]:
        if len(scale) == 1:  # one for all sequences: part of the norm's own weight and bias, in one operation
            weight = self.weight.float() * (1 + scale.float().flatten())
            return F.layer_norm(x.float(), weight.shape, weight, shift.float().flatten()).to(x.dtype)
        normed = F.layer_norm(x.float(), self.weight.shape, self.weight.float())
        return torch.addcmul(shift.float(), normed, 1 + scale.float()).to(x.dtype)


class Block(nn.Module):
    """Attention and MLP, each behind an adaptive layer norm and a learned gate that starts at zero (adaLN-zero)."""

    def __init__(self, hidden_size: int, heads: int, cond_dim: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = AdaptiveLayerNorm(hidden_size)
        self.attn_qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.attn_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm2 = AdaptiveLayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, mlp_ratio * hidden_size),
            nn.GELU(approximate="tanh"),
            nn.Linear(mlp_ratio * hidden_size, hidden_size),
        )
        self.adaLN_modulation = _zero_linear(cond_dim, 6 * hidden_size)

    def forward(
        self,
        x: Float[Tensor, "b l h"],
        condition: Float[Tensor, "b c"],
        rotation: Rotation,
        visible: Bool[Tensor, "b 1 1 l"] | None,
    ) -> Float[Tensor, "b l h"]:
        modulation = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation
        attended = self._attention(self.norm1(x, shift_attn, scale_attn), rotation, visible)
        x = torch.addcmul(x, gate_attn, attended)
        return torch.addcmul(x, gate_mlp, self.mlp(self.norm2(x, shift_mlp, scale_mlp)))

    def _attention(
        self,
        x: Float[Tensor, "b l h"],
        rotation: Rotation,
        visible: Bool[Tensor, "b 1 1 l"] | None,
    ) -> Float[Tensor, "b l h"]:
        batch, length, hidden_size = x.shape
        qkv = self.attn_qkv(x).view(batch, length, 3, self.heads, hidden_size // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(_rotate(q, rotation), _rotate(k, rotation), v, attn_mask=visible)
        return self.attn_out(out.transpose(1, 2).reshape(batch, length, hidden_size))


class OutputLayer(nn.Module):
    """Final adaptive norm and the output projection; the two are called apart (see Denoiser)."""

    def __init__(self, hidden_size: int, vocab_size: int, cond_dim: int, *, tied: bool) -> None:
        super().__init__()
        self.norm_final = AdaptiveLayerNorm(hidden_size)
        self.linear = _zero_linear(hidden_size, vocab_size)
        if tied:
            self.linear.register_parameter("weight", None)
        self.adaLN_modulation = _zero_linear(cond_dim, 2 * hidden_size)

    def norm(self, x: Float[Tensor, "b l h"], condition: Float[Tensor, "b c"]) -> Float[Tensor, "b l h"]:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.norm_final(x, shift, scale)


def _zero_linear(fan_in: int, fan_out: int) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
