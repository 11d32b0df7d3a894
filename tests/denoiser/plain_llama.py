"""The decoder layouts once more, from dicts of published tensors: plain functions, loops, one sequence at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Names of the tensors of a published model."""

    embedding: str
    final_norm: str
    head: str
    block: str
    attention_norm: str
    q: str
    k: str
    v: str
    o: str
    mlp_norm: str
    gate: str
    up: str
    down: str


LLADA = Layout(
    embedding="model.transformer.wte.weight",
    final_norm="model.transformer.ln_f.weight",
    head="model.transformer.ff_out.weight",
    block="model.transformer.blocks.{}.",
    attention_norm="attn_norm",
    q="q_proj",
    k="k_proj",
    v="v_proj",
    o="attn_out",
    mlp_norm="ff_norm",
    gate="ff_proj",
    up="up_proj",
    down="ff_out",
)
DREAM = Layout(
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    block="model.layers.{}.",
    attention_norm="input_layernorm",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)


def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x: Tensor, position: int, theta: float) -> Tensor:
    """Pairs (x_k, x_{k + e/2}) turn by the angle position / theta^(2k / e)."""
    half = len(x) // 2
    out = torch.empty_like(x)
    for k in range(half):
        angle = position / theta ** (2 * k / len(x))
        out[k] = x[k] * math.cos(angle) - x[k + half] * math.sin(angle)
        out[k + half] = x[k + half] * math.cos(angle) + x[k] * math.sin(angle)
    return out


def project(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    groups: int,
    theta: float,
    norm: Callable[[Tensor, str], Tensor],
    block: int | None,
) -> Tensor:
    """Query head h reads key and value head h // groups; a position reads every position, or those of its own block and
    before."""
    e = q.shape[1] // heads
    out = []
    for h in range(heads):
        mine, shared = slice(h * e, (h + 1) * e), slice(h // groups * e, (h // groups + 1) * e)
        qs = torch.stack([rotate(norm(row, "q"), i, theta) for i, row in enumerate(q[:, mine])])
        ks = torch.stack([rotate(norm(row, "k"), i, theta) for i, row in enumerate(k[:, shared])])
        scores = (qs @ ks.T / math.sqrt(e)).exp()
        for i in range(len(q)):
            if block is not None:
                scores[i, (i // block + 1) * block :] = 0
        out.append(scores / scores.sum(-1, keepdim=True) @ v[:, shared])
    return torch.cat(out, dim=1)


def outputs(
    weights: Weights,
    layout: Layout,
    ids: list[int],
    depth: int,
    heads: int,
    groups: int,
    theta: float,
    eps: float,
    block: int | None = None,
):
    """The network's outputs (l, rows) for one sequence of published ids, in the order in which it gives them."""
    x = torch.stack([weights[layout.embedding][token] for token in ids])
    for i in range(depth):
        at = layout.block.format(i)
        y = normalise(x, weights[at + layout.attention_norm + ".weight"], eps)
        q, k, v = (project(weights, at + name, y) for name in (layout.q, layout.k, layout.v))

        def norm(row: Tensor, which: str, at: str = at) -> Tensor:
            weight = weights.get(f"{at}self_attn.{which}_norm.weight")
            return row if weight is None else normalise(row, weight, eps)

        attended = attention(q, k, v, heads, groups, theta, norm, block)
        x = x + project(weights, at + layout.o, attended)
        y = normalise(x, weights[at + layout.mlp_norm + ".weight"], eps)
        gate = project(weights, at + layout.gate, y)
        x = x + project(weights, at + layout.down, gate / (1 + (-gate).exp()) * project(weights, at + layout.up, y))
    head = weights.get(layout.head, weights[layout.embedding])
    return normalise(x, weights[layout.final_norm], eps) @ head.T
