"""The diffusion transformer of MDLM (Sahoo et al., 2024; after Peebles & Xie, 2023), whole, in one file.

Parameter names and shapes are MDLM's published layout, so that its weights fit, with one difference: the output layer
has no row for MASK (the last row of the published one is dropped), because MASK is never predicted.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from mdm_lightning.denoiser.attention import AttentionPattern
from mdm_lightning.denoiser.base import ShapeOf, stored_depth, stored_size
from mdm_lightning.denoiser.key_value_cache import KeyValueCache, LayerCache
from mdm_lightning.denoiser.output_matrix import logits
from mdm_lightning.denoiser.rotary import Rotary, Rotation, rotate
from mdm_lightning.denoiser.transformer import Transformer, Visible
from mdm_lightning.errors import UserError

FREQUENCIES = 256  # size of the sinusoidal embedding of the noise level

# alpha is clipped here before the time embedding: -log(alpha) stays within the range MDLM was trained on.
MIN_CONDITIONING_ALPHA = 1e-3


class DiT(Transformer):
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
        attention: which positions read which; all read all by default.
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
        attention: AttentionPattern | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(vocab_size, length, attention, activation_checkpointing)
        self.check_sizes(hidden_size=hidden_size, depth=depth, heads=heads, cond_dim=cond_dim, mlp_ratio=mlp_ratio)
        self.time_conditioning = time_conditioning
        self.vocab_embed = TokenEmbedding(vocab_size + 1, hidden_size)
        self.sigma_map = NoiseLevelEmbedding(cond_dim)
        self.rotary_emb = StoredRotary(self.head_width(hidden_size, heads))
        self.blocks = nn.ModuleList(Block(hidden_size, heads, cond_dim, mlp_ratio) for _ in range(depth))
        self.output_layer = OutputLayer(hidden_size, vocab_size, cond_dim, tied=tie_weights)

    def forward(
        self,
        tokens: Int64[Tensor, "b l"],
        alpha: Float32[Tensor, " b"] | None = None,
        padding: Bool[Tensor, "b l"] | None = None,
        *,
        positions: Int64[Tensor, "c l"] | None = None,
        attention: AttentionPattern | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b l h"]:
        """See Transformer.forward.

        Raises:
            ValueError: the sequences are longer than ``length``, or alpha is wanted and missing.
        """
        positions, visible = self.place(tokens, padding, positions, attention, cache)
        condition = self._condition(alpha)
        rotation = self.rotary_emb(positions)
        x = self.run_blocks(self.vocab_embed(tokens), condition, rotation, visible, cache=cache)
        return self.output_layer.norm(x, condition)

    def beside_clean(
        self,
        tokens: Int64[Tensor, "b l"],
        clean: Int64[Tensor, "b l"],
        block_size: int,
        padding: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        """See Denoiser.beside_clean.

        Raises:
            UserError: it is conditioned on the time of a sequence, and every block has a time of its own.
        """
        if self.time_conditioning:
            raise UserError(
                "blockwise masks give every block its own time: they are not for model.time_conditioning=true"
            )
        return super().beside_clean(tokens, clean, block_size, padding)

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
        return logits(hidden, self.head_weight, self.output_layer.linear.bias, self.vocab_size)

    @property
    def recomputes_logits(self) -> bool:
        return self.activation_checkpointing

    def cross_entropy(self, hidden: Float[Tensor, "m h"], targets: Int64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """As Denoiser.cross_entropy; in float32 by torch's fused linear_cross_entropy (2.13), which costs no time.

        It returns the precision it is given: in bfloat16 that rounds a loss of 8 nats by up to 0.03 and shifts the mean
        by 0.003, so it serves float32 only.
        """
        rows = self.rows_at_once
        fused = len(hidden) > rows and hidden.dtype == torch.float32 and hasattr(F, "linear_cross_entropy")
        if not fused or torch.is_autocast_enabled(hidden.device.type):
            return super().cross_entropy(hidden, targets)
        return F.linear_cross_entropy(
            hidden,
            self.head_weight,
            targets,
            linear_bias=self.output_layer.linear.bias,
            reduction="none",
            # The automatic choice cuts chunks of ten rows at V = 50k, five times slower than no chunks at all.
            options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows),
        )

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


class StoredRotary(Rotary):
    """Rotary embedding with the buffer of frequencies that MDLM's layout has. It is not computed with: a model that is
    converted to bfloat16 rounds it, and at position 1,000 a rounded frequency is another angle."""

    inv_freq: Tensor

    def __init__(self, head_dim: int, theta: float = 10_000.0) -> None:
        super().__init__(head_dim, theta)
        self.register_buffer("inv_freq", theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))


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
        visible: Visible,
        kept: LayerCache | None = None,
    ) -> Float[Tensor, "b l h"]:
        modulation = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation
        attended = self._attention(self.norm1(x, shift_attn, scale_attn), rotation, visible, kept)
        x = torch.addcmul(x, gate_attn, attended)
        return torch.addcmul(x, gate_mlp, self.mlp(self.norm2(x, shift_mlp, scale_mlp)))

    def _attention(
        self,
        x: Float[Tensor, "b l h"],
        rotation: Rotation,
        visible: Visible,
        kept: LayerCache | None = None,
    ) -> Float[Tensor, "b l h"]:
        batch, length, hidden_size = x.shape
        qkv = self.attn_qkv(x).view(batch, length, 3, self.heads, hidden_size // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if kept is not None:
            k, v = kept(k, v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
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
