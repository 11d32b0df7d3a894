"""Bidirectional decoder blocks: the network of LLaDA (Nie et al., 2025) and of Dream (Ye et al., 2025), in one file.

It is the Llama architecture (Touvron et al., 2023) without the causal mask: RMSNorm, SwiGLU, rotary attention with
grouped queries. Dream, grown out of an autoregressive model, keeps that model's right shift: output i - 1 predicts
position i.

The published models hold MASK among their tokens (LLaDA: row 126336 of 126464). Here, as everywhere, MASK is id d, one
past the last token. The embedding takes the published row for it, ``mask_row``; the head gives that row's own column
the lowest number there is, and has no columns from d on, for which there are no tokens.
"""

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

INIT_STD = 0.02

FORMER_HEAD = "unembedding.weight"
"""What the head was called in checkpoints of earlier runs."""


class Llama(Transformer):
    """Bidirectional Llama. Time-agnostic: it does not look at alpha.

    Args:
        vocab_size: d, number of ordinary tokens: as many as the tokenizer has ids.
        length: longest sequence accepted.
        rows: rows of the embedding and of the head, d or more.
        mask_row: row of MASK's embedding; if below d, that token is never predicted.
        hidden_size: width; without ``head_dim`` an even multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads per block.
        key_value_heads: heads of keys and values, each shared by ``heads / key_value_heads`` queries.
        mlp_size: width of the MLP.
        rope_theta: base of the rotary frequencies.
        norm_eps: added to the mean square in RMSNorm.
        qkv_bias: queries, keys and values have a bias.
        tie_weights: share the input embedding with the head.
        shifted: output i - 1 predicts position i, and output 0 the first position as well (Dream).
        head_dim: channels per head, an even number; by default as many as share ``hidden_size``.
        qk_norm: queries and keys go through an RMSNorm of their own in each head (Qwen3).
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
        rows: int,
        mask_row: int,
        hidden_size: int,
        depth: int,
        heads: int,
        key_value_heads: int,
        mlp_size: int,
        rope_theta: float,
        norm_eps: float,
        qkv_bias: bool = False,
        tie_weights: bool = False,
        shifted: bool = False,
        head_dim: int | None = None,
        qk_norm: bool = False,
        attention: AttentionPattern | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(vocab_size, length, attention, activation_checkpointing)
        self.check_sizes(
            hidden_size=hidden_size, depth=depth, heads=heads, key_value_heads=key_value_heads, mlp_size=mlp_size
        )
        head_dim = head_dim or self.head_width(hidden_size, heads)
        self.check_sizes(head_dim=head_dim)
        if head_dim % 2:
            raise ValueError(f"Llama: head_dim must be even, got {head_dim}")
        if heads % key_value_heads:
            raise ValueError(f"Llama: heads {heads} must be a multiple of key_value_heads {key_value_heads}")
        if vocab_size > rows:
            raise ValueError(f"Llama: a vocabulary of {vocab_size} tokens does not fit into {rows} rows")
        if not 0 <= mask_row < rows:
            raise ValueError(f"Llama: mask_row must be in 0 ... {rows - 1}, got {mask_row}")
        self.mask_row = mask_row
        self.shifted = shifted
        self.attention_size = heads * head_dim
        self.rotary = Rotary(head_dim, rope_theta)
        self.embedding = nn.Embedding(rows, hidden_size)
        self.blocks = nn.ModuleList(
            Block(hidden_size, heads, key_value_heads, head_dim, mlp_size, norm_eps, qkv_bias, qk_norm)
            for _ in range(depth)
        )
        self.norm = RMSNorm(hidden_size, norm_eps)
        self.lm_head = None if tie_weights else nn.Linear(hidden_size, rows, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=INIT_STD)
        self.register_load_state_dict_pre_hook(_rename_former)

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
        """See Transformer.forward."""
        positions, visible = self.place(tokens, padding, positions, attention, cache)
        x = self.embedding(tokens.masked_fill(tokens == self.mask_id, self.mask_row))
        x = self.norm(self.run_blocks(x, self.rotary(positions), visible, cache=cache))
        if not self.shifted:
            return x
        return _from_predecessor(x, padding) if cache is None else cache.from_predecessors(x)

    def head(self, hidden: Float[Tensor, "m h"]) -> Float[Tensor, "m d"]:
        weight = self.embedding.weight if self.lm_head is None else self.lm_head.weight
        predicted = logits(hidden, weight, None, self.vocab_size)
        if self.mask_row < self.vocab_size:
            # Not -inf: guidance takes differences of logits.
            predicted[..., self.mask_row] = torch.finfo(predicted.dtype).min
        return predicted

    @classmethod
    def sizes(cls, shape: ShapeOf) -> dict[str, int]:
        return {
            "rows": stored_size(shape, "embedding.weight"),
            "hidden_size": stored_size(shape, "embedding.weight", axis=1),
            "depth": stored_depth(shape, "blocks.{}.attention_norm.weight"),
            "mlp_size": stored_size(shape, "blocks.0.gate.weight"),
        }

    def forward_flops(self, length: int) -> tuple[float, float]:
        linear = sum(module.weight.numel() for module in self.blocks.modules() if isinstance(module, nn.Linear))
        attention = 2 * length * self.attention_size * len(self.blocks)  # scores, and the weighted sum of values
        return 2.0 * (linear + attention), 2.0 * self.embedding.embedding_dim * self.vocab_size


def _rename_former(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Checkpoints of runs before the head was called ``lm_head`` are read, too."""
    former = f"{prefix}{FORMER_HEAD}"
    if former in state:
        state[f"{prefix}lm_head.weight"] = state.pop(former)


def _from_predecessor(x: Float[Tensor, "b l h"], padding: Bool[Tensor, "b l"] | None) -> Float[Tensor, "b l h"]:
    """Moves every row to the next position; the first position of a sequence keeps its own, as in Dream."""
    if padding is None:
        return torch.cat([x[:, :1], x[:, :-1]], dim=1)
    own = torch.arange(x.shape[1], device=x.device).expand(padding.shape)
    latest = own.masked_fill(padding, -1).cummax(1).values
    before = F.pad(latest[:, :-1], (1, 0), value=-1)
    return x.gather(1, torch.where(before < 0, own, before)[..., None].expand_as(x))


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang & Sennrich, 2019), the mean square in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*b h"]) -> Float[Tensor, "*b h"]:
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class Block(nn.Module):
    """Attention and gated MLP, each behind a norm and added to the residual stream."""

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        key_value_heads: int,
        head_dim: int,
        mlp_size: int,
        norm_eps: float,
        qkv_bias: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_value_heads = key_value_heads
        self.attention_norm = RMSNorm(hidden_size, norm_eps)
        self.query = nn.Linear(hidden_size, heads * head_dim, bias=qkv_bias)
        self.key = nn.Linear(hidden_size, key_value_heads * head_dim, bias=qkv_bias)
        self.value = nn.Linear(hidden_size, key_value_heads * head_dim, bias=qkv_bias)
        self.query_norm = RMSNorm(head_dim, norm_eps) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(head_dim, norm_eps) if qk_norm else nn.Identity()
        self.output = nn.Linear(heads * head_dim, hidden_size, bias=False)
        self.mlp_norm = RMSNorm(hidden_size, norm_eps)
        self.gate = nn.Linear(hidden_size, mlp_size, bias=False)
        self.up = nn.Linear(hidden_size, mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(
        self, x: Float[Tensor, "b l h"], rotation: Rotation, visible: Visible, kept: LayerCache | None = None
    ) -> Float[Tensor, "b l h"]:
        x = x + self._attention(self.attention_norm(x), rotation, visible, kept)
        branch = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(branch)) * self.up(branch))

    def _attention(
        self, x: Float[Tensor, "b l h"], rotation: Rotation, visible: Visible, kept: LayerCache | None
    ) -> Float[Tensor, "b l h"]:
        q = rotate(self.query_norm(self._by_head(self.query(x), self.heads)), rotation)
        k = rotate(self.key_norm(self._by_head(self.key(x), self.key_value_heads)), rotation)
        v = self._by_head(self.value(x), self.key_value_heads)
        if kept is not None:
            k, v = kept(k, v)
        # Repeated here, because with a padding mask only the slowest kernel groups the queries itself.
        groups = self.heads // self.key_value_heads
        k, v = (y[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for y in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.output(out.transpose(1, 2).flatten(2))

    @staticmethod
    def _by_head(x: Float[Tensor, "b l s"], heads: int) -> Float[Tensor, "b n l e"]:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)
