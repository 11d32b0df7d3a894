"""Dream-7B (Ye et al., 2025), in the layout of Qwen2, and what has its configuration: Dream-Coder, DiffuCoder."""

from typing import Any

from mdm_lightning.denoiser.published.family import PublishedConfig, Unstated
from mdm_lightning.denoiser.published.renamed import DecoderLayout
from mdm_lightning.denoiser.published.weight_files import Weights


class Dream(DecoderLayout):
    """A bidirectional Qwen2 that has kept the shift of an autoregressive model."""

    name = "Dream"
    size = "dream"

    def matches(self, weights: Weights) -> bool:
        # Autoregressive Qwen2 has the same tensors.
        return "model.embed_tokens.weight" in weights.shapes and weights.config.get("model_type") == "Dream"

    def arguments(self, weights: Weights, vocab_size: int | None, unstated: Unstated) -> dict[str, Any]:
        config = PublishedConfig(weights, weights.config)
        config.refuse_other_than(hidden_act="silu", rope_scaling=None, use_sliding_window=False, block_size=None)
        config.refuse_hints(unstated, "mask_id")
        rows = config["vocab_size"]
        return {
            "vocab_size": config.fitting(vocab_size, rows),
            "length": config["max_position_embeddings"],
            "rows": rows,
            "mask_row": config.either("mask_token_id", "mask_id", unstated.mask_id),
            "hidden_size": config["hidden_size"],
            "depth": config["num_hidden_layers"],
            "heads": config["num_attention_heads"],
            "key_value_heads": config["num_key_value_heads"],
            "mlp_size": config["intermediate_size"],
            "rope_theta": config["rope_theta"],
            "norm_eps": config["rms_norm_eps"],
            "qkv_bias": config.get("attention_bias", True),
            "tie_weights": config.get("tie_word_embeddings", False),
            "shifted": True,
        }
