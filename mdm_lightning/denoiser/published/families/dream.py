"""Dream-7B (Ye et al., 2025), in the layout of Qwen2, and what has its configuration: Dream-Coder, DiffuCoder."""

from typing import Any

from mdm_lightning.denoiser.published.families.qwen import HARMLESS, decoder_arguments
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
        config.refuse_other_than(block_size=None)
        config.refuse_hints(unstated, "mask_id")
        arguments = decoder_arguments(config, weights, vocab_size) | {
            "mask_row": config.either("mask_token_id", "mask_id", unstated.mask_id),
            "qkv_bias": config.get("attention_bias", True),
            "shifted": True,
        }
        config.warn_of_unread(HARMLESS)
        return arguments
