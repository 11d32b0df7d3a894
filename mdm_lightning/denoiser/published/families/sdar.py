"""Block diffusion models in the layout of Qwen: SDAR (Cheng et al., 2025) and Fast-dLLM v2 (Wu et al., 2025).

Positions read their own block and those before it. Facts that the configuration does not say are the user's to say.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from mdm_lightning.denoiser.attention import BlockCausal
from mdm_lightning.denoiser.published.families.qwen import BLOCKS, HARMLESS, decoder_arguments
from mdm_lightning.denoiser.published.family import PublishedConfig, Unstated
from mdm_lightning.denoiser.published.renamed import DecoderLayout
from mdm_lightning.denoiser.published.weight_files import Weights


class SDAR(DecoderLayout):
    """Qwen3 in blocks; a position is predicted from itself."""

    name = "SDAR"
    size = "qwen"
    keys = BLOCKS
    model_type = "sdar"
    shifted = False

    def matches(self, weights: Weights) -> bool:
        kind = str(weights.config.get("model_type", "")).lower()
        return "model.embed_tokens.weight" in weights.shapes and kind == self.model_type

    def arguments(self, weights: Weights, vocab_size: int | None, unstated: Unstated) -> dict[str, Any]:
        config = PublishedConfig(weights, weights.config)
        block_size = config.either(self.keys["block_size"], "block_size", unstated.block_size)
        arguments = decoder_arguments(config, weights, vocab_size) | {
            "mask_row": config.either("mask_token_id", "mask_id", unstated.mask_id),
            "shifted": config.either("shifted", "shifted", unstated.shifted, default=self.shifted),
            "attention": BlockCausal(block_size),
        }
        config.warn_of_unread(HARMLESS)
        return arguments


class FastDLLM(SDAR):
    """Qwen2.5 in blocks; a position is predicted from the one before it."""

    name = "Fast-dLLM"
    model_type = "fast_dllm_qwen"
    keys: ClassVar[Mapping[str, str]] = {**BLOCKS, "block_size": "bd_size"}
    shifted = True
