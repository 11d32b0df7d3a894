"""The DiT of MDLM (Sahoo et al., 2024): from the hub, or a Lightning checkpoint of MDLM's or duo's code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.published.family import Family, NamedTensors, PublishedConfig, Unstated
from mdm_lightning.denoiser.published.weight_files import Weights
from mdm_lightning.errors import UserError

PREFIX = "backbone."
HEAD = "output_layer.linear."


class MDLM(Family):
    """MASK is the last row of the embedding and of the output layer; the latter's is dropped: MASK is never predicted.
    Where it is stored again, it is zero."""

    name = "MDLM"
    denoiser = DiT
    size = "small"
    usual_tokenizer = "openai-community/gpt2"

    def matches(self, weights: Weights) -> bool:
        return f"{PREFIX}vocab_embed.embedding" in weights.shapes

    def arguments(self, weights: Weights, vocab_size: int | None, unstated: Unstated) -> dict[str, Any]:
        config = PublishedConfig(weights, _hub_config(weights))
        config.refuse_hints(unstated)
        rows = config["vocab_size"]
        if vocab_size is not None and vocab_size != rows - 1:
            raise UserError(
                f"{weights.origin} has {rows} tokens, of which the last is MASK, but the tokenizer has {vocab_size} "
                f"without MASK instead of {rows - 1}: use the tokenizer that the model was trained with"
            )
        hidden_size = config["hidden_dim"]
        mlp_size, _ = weights.shapes.get(f"{PREFIX}blocks.0.mlp.0.weight", (4 * hidden_size, hidden_size))
        arguments = {
            "vocab_size": rows - 1,
            "length": config["model_length"],
            "hidden_size": hidden_size,
            "depth": config["n_blocks"],
            "heads": config["n_heads"],
            "cond_dim": config["cond_dim"],
            "mlp_ratio": mlp_size // hidden_size,
            "time_conditioning": config["time_conditioning"],
        }
        config.warn_of_unread({"dropout"})
        return arguments

    def to_ours(self, stored: Mapping[str, Tensor]) -> NamedTensors:
        for name in stored:
            if name.startswith(PREFIX):
                value, ours = stored[name], name.removeprefix(PREFIX)
                yield ours, value[:-1] if ours.startswith(HEAD) and value.ndim else value

    def to_theirs(self, state: Mapping[str, Tensor]) -> NamedTensors:
        for name in state:
            value = state[name]
            if name.startswith(HEAD):
                value = torch.cat([value, value.new_zeros(1, *value.shape[1:])])
            yield PREFIX + name, value


def _hub_config(weights: Weights) -> Mapping[str, Any]:
    """The hub's configuration; that of a Lightning checkpoint is translated, and its vocabulary is counted.

    Raises:
        UserError: it is of one of the diffusions that share MDLM's network, with another meaning of its outputs.
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
        "vocab_size": weights.shapes[f"{PREFIX}vocab_embed.embedding"][0],
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
