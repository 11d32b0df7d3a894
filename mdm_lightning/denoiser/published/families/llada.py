"""LLaDA (Nie et al., 2025) and what has its layout: LLaDA-1.5, iLLaDA."""

from collections.abc import Mapping
from typing import Any, ClassVar

from mdm_lightning.denoiser.published.family import PublishedConfig, Unstated
from mdm_lightning.denoiser.published.renamed import RenamedLlama
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError

# What a setting is where the configuration leaves it out: the defaults of LLaDA's own class.
DEFAULTS: Mapping[str, Any] = {
    "activation_type": "swiglu",
    "block_type": "sequential",
    "layer_norm_type": "default",
    "rope": False,
    "mlp_ratio": 4,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5,
    "weight_tying": True,
}

# What the denoiser implements. (An activation "swiglu" is one that halves the width of the MLP. The gate of a block
# of type "llama" has a tensor of its own, and its activation is silu.)
SUPPORTED: Mapping[str, Any] = {
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "rope": True,
    "alibi": False,
    "clip_qkv": None,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm": False,
    "embedding_layer_norm": False,
    "input_emb_norm": False,
    "norm_after": False,
    "include_bias": False,
    "bias_for_layer_norm": None,
    "scale_logits": False,
}

# Of settings that are not supported (ALiBi, norms of queries and keys), of training alone, of first values, of speed.
# ``rope_full_precision`` decides how rotations are rounded: here they are float32 always.
HARMLESS = frozenset(
    {
        "alibi_bias_max", "attention_dropout", "attention_layer_norm_with_affine", "embedding_dropout", "emb_init_std",
        "flash_attention", "init_cutoff_factor", "init_device", "init_fn", "init_std", "mlp_ratio", "precision",
        "residual_dropout", "rope_full_precision", "scale_emb_init", "vocab_size",
    }
)  # fmt: skip


class LLaDA(RenamedLlama):
    """A bidirectional Llama with names of its own."""

    name = "LLaDA"
    size = "llada"
    blocks = "model.transformer.blocks"
    modules: ClassVar[Mapping[str, str]] = {
        "embedding": "model.transformer.wte",
        "norm": "model.transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
    }
    block_modules: ClassVar[Mapping[str, str]] = {
        "attention_norm": "attn_norm",
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "output": "attn_out",
        "mlp_norm": "ff_norm",
        "gate": "ff_proj",
        "up": "up_proj",
        "down": "ff_out",
    }

    def matches(self, weights: Weights) -> bool:
        return "model.transformer.wte.weight" in weights.shapes

    def arguments(self, weights: Weights, vocab_size: int | None, unstated: Unstated) -> dict[str, Any]:
        config = PublishedConfig(weights, {**DEFAULTS, **weights.config})
        config.refuse_other_than(**SUPPORTED)
        config.refuse_hints(unstated, "mask_id")
        rows = config.get("embedding_size") or config["vocab_size"]
        heads, hidden_size = config["n_heads"], config["d_model"]
        arguments = {
            "vocab_size": config.fitting(vocab_size, rows),
            "length": config["max_sequence_length"],
            "rows": rows,
            "mask_row": config.either("mask_token_id", "mask_id", unstated.mask_id),
            "hidden_size": hidden_size,
            "depth": config["n_layers"],
            "heads": heads,
            "key_value_heads": _key_value_heads(config, heads),
            "mlp_size": config.get("mlp_hidden_size") or config["mlp_ratio"] * hidden_size,
            "rope_theta": config["rope_theta"],
            "norm_eps": config["rms_norm_eps"],
            "qkv_bias": bool(config.get("include_qkv_bias")),
            "tie_weights": config["weight_tying"],
        }
        config.warn_of_unread(HARMLESS)
        return arguments


def _key_value_heads(config: PublishedConfig, heads: int) -> int:
    """``n_kv_heads``, or what the older ``multi_query_attention`` says instead of it.

    Raises:
        UserError: the two contradict each other.
    """
    number, single = config.get("n_kv_heads"), config.get("multi_query_attention")
    if single is None:
        return number or heads
    implied = 1 if single else heads
    if number not in (None, implied):
        raise UserError(f"{config.origin} has multi_query_attention={single} and n_kv_heads={number} in {CONFIG}")
    return implied
