"""Families of published models: what their configurations mean and what their tensors are called.

A family recognises its weights, gives the constructor's arguments of the denoiser that they fit, and says under which
name each of its parameters is stored. To add one, write a class and list it in ``FAMILIES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.published.weight_files import CONFIG, Weights
from mdm_lightning.errors import UserError


class Family(ABC):
    """Models that are published in one format."""

    name: ClassVar[str]
    denoiser: ClassVar[type[Denoiser]]
    size: ClassVar[str]
    """The choice of ``model=`` that has the published sizes."""
    usual_tokenizer: ClassVar[str | None] = None
    """On the hub, for models that bring none along."""

    @abstractmethod
    def matches(self, weights: Weights) -> bool:
        """Whether the weights are of this family, by their names."""

    @abstractmethod
    def arguments(self, weights: Weights, vocab_size: int | None) -> dict[str, Any]:
        """Arguments of ``denoiser`` for these weights.

        Raises:
            UserError: the configuration lacks something, asks for something that is not supported, or does not go with
                the vocabulary.
        """

    @abstractmethod
    def stored_name(self, parameter: str) -> str:
        """Name under which a parameter of the denoiser is stored."""

    def extra_rows(self, parameter: str) -> int:
        """Number of rows at the end of the stored tensor that the parameter does not have."""
        return 0

    def copies(self, arguments: Mapping[str, Any]) -> Mapping[str, str]:
        """Stored names that may be there as well, with the parameter that they must equal."""
        return {}


class MDLM(Family):
    """The DiT of MDLM (Sahoo et al., 2024): from the hub, or a Lightning checkpoint of MDLM's or duo's code.

    MASK is the last row of the embedding and of the output layer; the latter's is dropped: MASK is never predicted.
    """

    name = "MDLM"
    denoiser = DiT
    size = "small"
    usual_tokenizer = "openai-community/gpt2"
    prefix = "backbone."

    def matches(self, weights: Weights) -> bool:
        return f"{self.prefix}vocab_embed.embedding" in weights.shapes

    def arguments(self, weights: Weights, vocab_size: int | None) -> dict[str, Any]:
        settings = Settings(weights, self._hub_settings(weights))
        rows = settings["vocab_size"]
        if vocab_size is not None and vocab_size != rows - 1:
            raise UserError(
                f"{weights.origin} has {rows} tokens, of which the last is MASK, but the tokenizer has {vocab_size} "
                f"without MASK instead of {rows - 1}: use the tokenizer that the model was trained with"
            )
        hidden_size = settings["hidden_dim"]
        mlp_size, _ = weights.shapes.get(f"{self.prefix}blocks.0.mlp.0.weight", (4 * hidden_size, hidden_size))
        return {
            "vocab_size": rows - 1,
            "length": settings["model_length"],
            "hidden_size": hidden_size,
            "depth": settings["n_blocks"],
            "heads": settings["n_heads"],
            "cond_dim": settings["cond_dim"],
            "mlp_ratio": mlp_size // hidden_size,
            "time_conditioning": settings["time_conditioning"],
        }

    def stored_name(self, parameter: str) -> str:
        return self.prefix + parameter

    def extra_rows(self, parameter: str) -> int:
        return int(parameter.startswith("output_layer.linear."))

    def _hub_settings(self, weights: Weights) -> Mapping[str, Any]:
        """The hub's settings; those of a Lightning checkpoint are translated, and its vocabulary is counted.

        Raises:
            UserError: they are of one of the diffusions that share MDLM's network, with another meaning of its outputs.
        """
        training = weights.hyper_parameters.get("config")
        if weights.config or not isinstance(training, Mapping):
            if str(weights.config.get("model_type", "mdlm")).lower() != "mdlm":
                raise _another_diffusion(weights, "model_type", weights.config["model_type"])
            return weights.config
        # duo keeps in `algo` what MDLM keeps at the top.
        own = training.get("algo") or {}
        if own.get("name", "mdlm") != "mdlm":
            raise _another_diffusion(weights, "algo.name", own["name"])
        algorithm = {**training, **own}
        supported = {"parameterization": "subs", "backbone": "dit", "diffusion": "absorbing_state"}
        for key, value in (supported | {"causal_attention": False}).items():
            if algorithm.get(key, value) != value:
                raise _another_diffusion(weights, key, algorithm[key])
        model = training.get("model") or {}
        return {
            "vocab_size": weights.shapes[f"{self.prefix}vocab_embed.embedding"][0],
            "model_length": model.get("length"),
            "hidden_dim": model.get("hidden_size"),
            "cond_dim": model.get("cond_dim"),
            "n_blocks": model.get("n_blocks"),
            "n_heads": model.get("n_heads"),
            "time_conditioning": algorithm.get("time_conditioning"),
        }


def _another_diffusion(weights: Weights, key: str, value: object) -> UserError:
    """UDLM, BD3LM, duo and others have tensors of the same names."""
    return UserError(
        f"{weights.origin} says {key}: {str(value)[:60]}, which is another model than MDLM: of this network only "
        "masked diffusion (mdlm: parameterization subs, backbone dit) can be read"
    )


class LlamaFamily(Family):
    """A published format of ``Llama``, which calls its modules by other names."""

    denoiser = Llama
    blocks: ClassVar[str]
    modules: ClassVar[Mapping[str, str]]
    block_modules: ClassVar[Mapping[str, str]]

    def stored_name(self, parameter: str) -> str:
        *path, kind = parameter.split(".")
        if path[0] == "blocks":
            return f"{self.blocks}.{path[1]}.{self.block_modules[path[2]]}.{kind}"
        return f"{self.modules[path[0]]}.{kind}"

    def copies(self, arguments: Mapping[str, Any]) -> Mapping[str, str]:
        return {f"{self.modules['lm_head']}.weight": "embedding.weight"} if arguments["tie_weights"] else {}


class LLaDA(LlamaFamily):
    """LLaDA-8B (Nie et al., 2025)."""

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

    def arguments(self, weights: Weights, vocab_size: int | None) -> dict[str, Any]:
        settings = Settings(weights, weights.config)
        settings.refuse_other_than(
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
        rows = settings.get("embedding_size") or settings["vocab_size"]
        heads = settings["n_heads"]
        return {
            "vocab_size": settings.fitting(vocab_size, rows),
            "length": settings["max_sequence_length"],
            "rows": rows,
            "mask_row": settings["mask_token_id"],
            "hidden_size": settings["d_model"],
            "depth": settings["n_layers"],
            "heads": heads,
            "key_value_heads": settings.get("n_kv_heads") or heads,
            "mlp_size": settings["mlp_hidden_size"],
            "rope_theta": settings["rope_theta"],
            "norm_eps": settings["rms_norm_eps"],
            "qkv_bias": bool(settings.get("include_qkv_bias")),
            "tie_weights": settings["weight_tying"],
        }


class Dream(LlamaFamily):
    """Dream-7B (Ye et al., 2025), in the layout of Qwen2."""

    name = "Dream"
    size = "dream"
    blocks = "model.layers"
    modules: ClassVar[Mapping[str, str]] = {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "lm_head": "lm_head",
    }
    block_modules: ClassVar[Mapping[str, str]] = {
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }

    def matches(self, weights: Weights) -> bool:
        # Autoregressive Qwen2 has the same tensors.
        return "model.embed_tokens.weight" in weights.shapes and weights.config.get("model_type") == "Dream"

    def arguments(self, weights: Weights, vocab_size: int | None) -> dict[str, Any]:
        settings = Settings(weights, weights.config)
        settings.refuse_other_than(hidden_act="silu", rope_scaling=None, use_sliding_window=False, block_size=None)
        rows = settings["vocab_size"]
        return {
            "vocab_size": settings.fitting(vocab_size, rows),
            "length": settings["max_position_embeddings"],
            "rows": rows,
            "mask_row": settings["mask_token_id"],
            "hidden_size": settings["hidden_size"],
            "depth": settings["num_hidden_layers"],
            "heads": settings["num_attention_heads"],
            "key_value_heads": settings["num_key_value_heads"],
            "mlp_size": settings["intermediate_size"],
            "rope_theta": settings["rope_theta"],
            "norm_eps": settings["rms_norm_eps"],
            "qkv_bias": settings.get("attention_bias", True),
            "tie_weights": settings.get("tie_word_embeddings", False),
            "shifted": True,
        }


FAMILIES: tuple[Family, ...] = (MDLM(), LLaDA(), Dream())


def recognise(weights: Weights) -> Family:
    """The family that the weights are of.

    Raises:
        UserError: none.
    """
    for family in FAMILIES:
        if family.matches(weights):
            return family
    names = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"{weights.origin} holds weights of none of the known families ({names}), or lacks their {CONFIG}")


class Settings:
    """A published configuration that says what it lacks."""

    def __init__(self, weights: Weights, values: Mapping[str, Any]) -> None:
        self.origin = weights.origin
        self.values = values

    def __getitem__(self, key: str) -> Any:
        value = self.values.get(key)
        if value is None:
            raise UserError(
                f"the configuration of {self.origin} ({CONFIG}) does not say {key}: it is incomplete, or of another "
                "kind of model"
            )
        return value

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def refuse_other_than(self, **supported: Any) -> None:
        """Raises:
        UserError: a setting has another value than the one that the denoiser implements.
        """
        for key, value in supported.items():
            if self.values.get(key, value) != value:
                raise UserError(f"{self.origin} has {key}={self.values[key]} in {CONFIG}: only {value} is supported")

    def fitting(self, vocab_size: int | None, rows: int) -> int:
        """The tokenizer's number of ids, by default as many as there are rows.

        Raises:
            UserError: there are not enough rows for it.
        """
        if vocab_size is not None and vocab_size > rows:
            raise UserError(
                f"the tokenizer has {vocab_size} ids, but {self.origin} only {rows} rows: use the model's own tokenizer"
            )
        return rows if vocab_size is None else vocab_size
