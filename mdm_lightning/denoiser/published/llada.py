"""LLaDA (Nie et al., 2025) and what has its layout: LLaDA-1.5, iLLaDA."""

from collections.abc import Mapping
from typing import Any, ClassVar

from mdm_lightning.denoiser.published.family import PublishedConfig, Unstated
from mdm_lightning.denoiser.published.renamed import RenamedLlama
from mdm_lightning.denoiser.published.weight_files import Weights


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
        config = PublishedConfig(weights, weights.config)
        config.refuse_other_than(
            activation_type="silu",
            block_type="llama",
            rope=True,
            alibi=False,
            layer_norm_type="rms",
            attention_layer_norm=False,
            include_bias=False,
            input_emb_norm=False,
            scale_logits=False,
        )
        config.refuse_hints(unstated, "mask_id")
        rows = config.get("embedding_size") or config["vocab_size"]
        heads = config["n_heads"]
        return {
            "vocab_size": config.fitting(vocab_size, rows),
            "length": config["max_sequence_length"],
            "rows": rows,
            "mask_row": config.either("mask_token_id", "mask_id", unstated.mask_id),
            "hidden_size": config["d_model"],
            "depth": config["n_layers"],
            "heads": heads,
            "key_value_heads": config.get("n_kv_heads") or heads,
            "mlp_size": config["mlp_hidden_size"],
            "rope_theta": config["rope_theta"],
            "norm_eps": config["rms_norm_eps"],
            "qkv_bias": bool(config.get("include_qkv_bias")),
            "tie_weights": config["weight_tying"],
        }
