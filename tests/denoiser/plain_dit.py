"""The diffusion transformer once more, from a dict of weights: plain functions, loops, one sequence at a time."""

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def normalise(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def rotate(x: Tensor, position: int) -> Tensor:
    """Pairs (x_k, x_{k + e/2}) turn by the angle position / 10000^(2k / e)."""
    half = len(x) // 2
    out = torch.empty_like(x)
    for k in range(half):
        angle = position / 10_000 ** (2 * k / len(x))
        cos, sin = math.cos(angle), math.sin(angle)
        out[k] = x[k] * cos - x[k + half] * sin
        out[k + half] = x[k + half] * cos + x[k] * sin
    return out


def condition(weights: Weights, sigma: float) -> Tensor:
    angles = [sigma * 10_000 ** (-k / 128) for k in range(128)]
    embedding = weights["sigma_map.mlp.0.weight"].new_tensor([*map(math.cos, angles), *map(math.sin, angles)])
    hidden = weights["sigma_map.mlp.0.weight"] @ embedding + weights["sigma_map.mlp.0.bias"]
    hidden = hidden * torch.sigmoid(hidden)
    c = weights["sigma_map.mlp.2.weight"] @ hidden + weights["sigma_map.mlp.2.bias"]
    return c * torch.sigmoid(c)


def attention(weights: Weights, prefix: str, x: Tensor, heads: int) -> Tensor:
    length, size = x.shape
    e = size // heads
    qkv = x @ weights[prefix + "attn_qkv.weight"].T
    out = torch.zeros_like(x)
    for h in range(heads):
        # Columns of attn_qkv in the order: q, k or v; head; dimension.
        q = torch.stack([rotate(qkv[i, h * e : (h + 1) * e], i) for i in range(length)])
        k = torch.stack([rotate(qkv[i, size + h * e : size + (h + 1) * e], i) for i in range(length)])
        v = qkv[:, 2 * size + h * e : 2 * size + (h + 1) * e]
        scores = (q @ k.T / math.sqrt(e)).exp()
        out[:, h * e : (h + 1) * e] = scores / scores.sum(-1, keepdim=True) @ v
    return out @ weights[prefix + "attn_out.weight"].T


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(weights: Weights, prefix: str, x: Tensor) -> Tensor:
    hidden = gelu_tanh(x @ weights[prefix + "mlp.0.weight"].T + weights[prefix + "mlp.0.bias"])
    return hidden @ weights[prefix + "mlp.2.weight"].T + weights[prefix + "mlp.2.bias"]


def logits(weights: Weights, tokens: list[int], sigma: float, depth: int, heads: int, tied: bool = False) -> Tensor:
    """Logits (l, d) for one sequence; ``sigma`` is -log(alpha), or zero without time conditioning."""
    x = torch.stack([weights["vocab_embed.embedding"][token] for token in tokens])
    c = condition(weights, sigma)
    for i in range(depth):
        prefix = f"blocks.{i}."
        modulation = weights[prefix + "adaLN_modulation.weight"] @ c + weights[prefix + "adaLN_modulation.bias"]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.split(len(modulation) // 6)
        branch = normalise(x, weights[prefix + "norm1.weight"]) * (1 + scale1) + shift1
        x = x + gate1 * attention(weights, prefix, branch, heads)
        branch = normalise(x, weights[prefix + "norm2.weight"]) * (1 + scale2) + shift2
        x = x + gate2 * mlp(weights, prefix, branch)
    modulation = weights["output_layer.adaLN_modulation.weight"] @ c + weights["output_layer.adaLN_modulation.bias"]
    shift, scale = modulation.split(len(modulation) // 2)
    x = normalise(x, weights["output_layer.norm_final.weight"]) * (1 + scale) + shift
    head = weights["vocab_embed.embedding"][:-1] if tied else weights["output_layer.linear.weight"]
    return x @ head.T + weights["output_layer.linear.bias"]
