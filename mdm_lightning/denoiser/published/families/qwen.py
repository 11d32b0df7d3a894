"""Autoregressive models that were turned into masked diffusion models and have kept their layout: that of Llama, Qwen2
or Qwen3, with full attention (Tiny-A2D, Open-dCoder) or in blocks.

An autoregressive model has the same files. What makes it another one, MASK and the shift, few configurations say; then
the user has to.
"""

from collections.abc import Mapping
from typing import Any

from mdm_lightning.denoiser.attention import BlockCausal
from mdm_lightning.denoiser.published.family import PublishedConfig, Unstated
from mdm_lightning.denoiser.published.renamed import DecoderLayout
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError

# What the denoiser implements; the rest of the list is what relatives of Llama with the same tensors add to it.
SUPPORTED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "hidden_activation": None,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "attention_multiplier": None,
    "attn_logit_softcapping": None,
    "clip_qkv": None,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": None,
    "logit_scale": None,
    "logits_scaling": 1.0,
    "partial_rotary_factor": 1.0,
    "query_pre_attn_scalar": None,
    "residual_multiplier": 1.0,
}

# Of windows that are not used, of biases (they are seen in the tensors), of how training and matrix products are done.
HARMLESS = frozenset(
    {
        "attention_bias", "debug", "fuse_cross_entropy", "max_window_layers", "mlp_bias", "pretraining_tp",
        "rope_scaling", "sliding_window",
    }
)  # fmt: skip

BLOCKS: Mapping[str, str] = {"mask_id": "mask_token_id", "shifted": "shifted", "block_size": "block_size"}
"""Where a configuration in this layout says what others leave unstated."""

BEGIN = " (of an autoregressive model, to make a masked diffusion model of it: published.autoregressive=true)"


class Qwen(DecoderLayout):
    """Any model in this layout that no other family has claimed."""

    name = "Qwen"
    size = "qwen"
    takes_the_rest = True
    keys = BLOCKS

    def matches(self, weights: Weights) -> bool:
        return "model.embed_tokens.weight" in weights.shapes and bool(weights.config)

    def arguments(self, weights: Weights, vocab_size: int | None, unstated: Unstated) -> dict[str, Any]:
        config = PublishedConfig(weights, weights.config)
        block_size = config.either("block_size", "block_size", unstated.block_size, default=0)
        arguments = decoder_arguments(config, weights, vocab_size) | {
            "mask_row": config.either("mask_token_id", "mask_id", unstated.mask_id, otherwise=BEGIN),
            "shifted": config.either("shifted", "shifted", unstated.shifted),
            **({"attention": BlockCausal(block_size)} if block_size else {}),
        }
        config.warn_of_unread(HARMLESS)
        return arguments


def decoder_arguments(config: PublishedConfig, weights: Weights, vocab_size: int | None) -> dict[str, Any]:
    """The sizes of a model in this layout. Whether there are biases and norms of queries and keys is seen in its
    tensors: the configurations of Qwen2 do not say it.

    Raises:
        UserError: it lacks a size, or asks for what the denoiser does not have.
    """
    config.refuse_other_than(**SUPPORTED)
    if "use_sliding_window" not in config.values:  # as in Mistral's; Qwen's have a window that is not used
        config.refuse_other_than(sliding_window=None)
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise UserError(f"{weights.origin} has layers with a sliding window (layer_types): only full is supported")
    rows, heads = config["vocab_size"], config["num_attention_heads"]
    return {
        "vocab_size": config.fitting(vocab_size, rows),
        "length": config["max_position_embeddings"],
        "rows": rows,
        "hidden_size": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": heads,
        "key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim"),
        "mlp_size": config["intermediate_size"],
        "rope_theta": _rope_theta(config),
        "norm_eps": config["rms_norm_eps"],
        "qkv_bias": any(name.endswith(".q_proj.bias") for name in weights.shapes),
        "qk_norm": any(name.endswith(".q_norm.weight") for name in weights.shapes),
        "tie_weights": config.get("tie_word_embeddings", False),
    }


def _rope_theta(config: PublishedConfig) -> float:
    """The base of the rotary frequencies, which newer configurations keep with the rest of the rotary settings."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rotary = config.get(key) or {}
    if rotary.get("rope_type", rotary.get("type", "default")) != "default":
        raise UserError(f"{config.origin} has {key}={rotary} in {CONFIG}: only the default is supported")
    return rotary.get("rope_theta") or config["rope_theta"]
