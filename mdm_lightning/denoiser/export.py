"""Writing a DiT as MDLM is published: weights, configuration, tokenizer, and a model card with what was measured."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.families import MDLM
from mdm_lightning.denoiser.weight_files import CONFIG
from mdm_lightning.errors import UserError

WEIGHTS = "model.safetensors"


def write_published(
    denoiser: DiT, tokenizer: Mapping[str, str], folder: Path, metrics: Mapping[str, float], source: str = ""
) -> None:
    """Writes a folder that ``read_published`` and MDLM's own class read, with the same logits as ``denoiser``.

    MASK's row of the output layer, which MDLM has and never uses, is zero. Tied weights are written twice, for MDLM's
    class does not tie them.

    Args:
        denoiser: network with the (averaged) weights to publish, in the precision to publish.
        tokenizer: its content and special tokens, as ``Tokenizer.state()`` gives them.
        folder: made if it does not exist; files of the same names are replaced.
        metrics: measured figures for the model card, by name, with units in the names.
        source: what the model card says of where the model comes from.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{WEIGHTS}.{os.getpid()}.tmp"
        try:
            save_file(_published_weights(denoiser), temporary, metadata={"format": "pt"})
            temporary.replace(folder / WEIGHTS)
        finally:
            temporary.unlink(missing_ok=True)
        content, special = tokenizer["content"], {key: name for key, name in tokenizer.items() if key != "content"}
        (folder / "tokenizer.json").write_text(content, encoding="utf-8")
        length = {"model_max_length": denoiser.length, "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(special | length, indent=2), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(_configuration(denoiser), indent=2), encoding="utf-8")
        (folder / "README.md").write_text(_model_card(denoiser, metrics, source), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from error


def _published_weights(denoiser: DiT) -> dict[str, Tensor]:
    family = MDLM()
    state = {**denoiser.state_dict(), "output_layer.linear.weight": denoiser.head_weight}
    published = {}
    for name, value in state.items():
        mask_rows = value.new_zeros(family.extra_rows(name), *value.shape[1:])
        published[family.stored_name(name)] = torch.cat([value.detach(), mask_rows]).cpu().contiguous()
    return published


def _configuration(denoiser: DiT) -> dict[str, object]:
    rows, hidden_size = denoiser.vocab_embed.embedding.shape
    return {
        "architectures": ["MDLM"],
        "model_type": "mdlm",
        "vocab_size": rows,
        "model_length": denoiser.length,
        "hidden_dim": hidden_size,
        "cond_dim": denoiser.sigma_map.mlp[0].out_features,
        "n_blocks": len(denoiser.blocks),
        "n_heads": hidden_size // denoiser.rotary_emb.head_dim,
        "dropout": 0.0,
        "time_conditioning": denoiser.time_conditioning,
        "torch_dtype": str(denoiser.vocab_embed.embedding.dtype).removeprefix("torch."),
    }


def _model_card(denoiser: DiT, metrics: Mapping[str, float], source: str) -> str:
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in metrics.items()) or "| none | |"
    return f"""---
library_name: mdm-lightning
pipeline_tag: text-generation
tags:
- masked-diffusion
- mdlm
---

# Masked diffusion language model

{source or "Trained with mdm-lightning."}

A time-{"conditioned" if denoiser.time_conditioning else "agnostic"} diffusion transformer in the layout of MDLM
(Sahoo et al., 2024) with {parameters:,} parameters, for sequences of up to {denoiser.length} of {denoiser.vocab_size:,}
tokens. MASK is token {denoiser.mask_id}; its row of the output layer is zero, and it must not be sampled.

## Measured

| metric | value |
| --- | --- |
{rows}

## Use

```
python evaluate.py ckpt=PATH_OF_THIS_FOLDER
```

MDLM's own classes read the folder as well: `config.json` and the names in `{WEIGHTS}` are theirs.
"""
