"""Writing a denoiser as it is published: weights, configuration, tokenizer, and a model card with what was measured."""

import glob
import inspect
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.published.families.mdlm import MDLM
from mdm_lightning.denoiser.published.family import NOTHING, Family, Unstated
from mdm_lightning.denoiser.published.weight_files import CONFIG
from mdm_lightning.errors import UserError

# It announces a temporary folder, under the name of its file.
logging.getLogger(inspect.getfile(save_torch_state_dict)).setLevel(logging.WARNING)

SHARD = "5GB"  # largest file of weights, as on the hub
UNFINISHED = ".unfinished-export"  # ends the name of the folder in which an export is made


@dataclass(frozen=True)
class Layout:
    """A format to publish in.

    Attributes:
        family: whose names of tensors to use.
        config: what ``config.json`` says, apart from the precision.
        files: to go with it as they are, such as those of the tokenizer that a model was published with.
    """

    family: Family
    config: Mapping[str, Any]
    files: Sequence[Path] = ()


def mdlm_layout(denoiser: DiT, unstated: Unstated = NOTHING) -> Layout:
    """MDLM's format, for a DiT of any size.

    Raises:
        UserError: the format has no word for what ``unstated`` says of it.
    """
    family = MDLM()
    rows, hidden_size = denoiser.vocab_embed.embedding.shape
    config = {
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
    }
    return Layout(family, config | family.stated(unstated))


def write_published(
    denoiser: Denoiser,
    layout: Layout,
    tokenizer: Mapping[str, str],
    folder: Path,
    metrics: Mapping[str, float],
    source: str = "",
) -> None:
    """Writes a folder that ``read_published`` and the family's own class read, with the same logits as ``denoiser``.

    MASK's row of the output layer, which MDLM has and never uses, is zero. A DiT's tied weights are written twice, for
    MDLM's class does not tie them.

    Args:
        denoiser: network with the (averaged) weights to publish, in the precision to publish.
        layout: a format that it fits.
        tokenizer: its content and special tokens, as ``Tokenizer.state()`` gives them.
        folder: made if it does not exist; weights that are there already are replaced.
        metrics: measured figures for the model card, by name, with units in the names.
        source: what the model card says of where the model comes from.

    Raises:
        UserError: the folder cannot be written to.
    """
    content, special = tokenizer["content"], {key: name for key, name in tokenizer.items() if key != "content"}
    length = {"model_max_length": denoiser.length, "tokenizer_class": "PreTrainedTokenizerFast"}
    dtype = str(next(denoiser.parameters()).dtype).removeprefix("torch.")
    config = {key: value for key, value in layout.config.items() if key != "dtype"}
    texts = {
        CONFIG: json.dumps({**config, "torch_dtype": dtype}, indent=2),
        "README.md": _model_card(denoiser, layout.family, metrics, source),
    }
    if not layout.files:
        texts |= {"tokenizer.json": content, "tokenizer_config.json": json.dumps(special | length, indent=2)}
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        discard_unfinished(folder)
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}{UNFINISHED}")
        unfinished.mkdir()
        try:
            save_torch_state_dict(_published_weights(denoiser, layout.family), unfinished, max_shard_size=SHARD)
            for file in layout.files:
                shutil.copyfile(file, unfinished / file.name)
            for file_name, text in texts.items():
                (unfinished / file_name).write_text(text, encoding="utf-8")
            _put_in_place(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from error


def discard_unfinished(folder: Path) -> None:
    """Removes what exports to a folder that were killed have left: beside it, and, of earlier versions, in it."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*{UNFINISHED}"):
        if not _is_running(leftover.name.removesuffix(UNFINISHED).rpartition(".")[2]):
            shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".export-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def _put_in_place(finished: Path, folder: Path) -> None:
    """Gives the finished folder its name, at once; one that holds something gets the files, and loses its weights."""
    mode = (finished / CONFIG).stat().st_mode  # the weights' file is readable for its owner only
    for path in finished.iterdir():
        path.chmod(mode)
    if not folder.exists() or not any(folder.iterdir()):
        finished.replace(folder)
        return
    for stale in (*folder.glob("model*.safetensors"), *folder.glob("model*.safetensors.index.json")):
        stale.unlink()
    for path in finished.iterdir():
        shutil.move(path, folder / path.name)


def _published_weights(denoiser: Denoiser, family: Family) -> dict[str, Tensor]:
    state = denoiser.state_dict()
    if isinstance(denoiser, DiT):
        state["output_layer.linear.weight"] = denoiser.head_weight
    theirs = family.to_theirs({name: value.detach() for name, value in state.items()})
    return {name: value.cpu().contiguous() for name, value in theirs}


def _model_card(denoiser: Denoiser, family: Family, metrics: Mapping[str, float], source: str) -> str:
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    rows = "\n".join(f"| {name} | {value:.6g} |" for name, value in metrics.items()) or "| none | |"
    return f"""---
library_name: mdm-lightning
pipeline_tag: text-generation
tags:
- masked-diffusion
- {family.name.lower()}
---

# Masked diffusion language model

{source or "Trained with mdm-lightning."}

A masked diffusion denoiser in the layout of {family.name} with {parameters:,} parameters, for sequences of up to
{denoiser.length} of {denoiser.vocab_size:,} tokens. {_about_mask(denoiser)}

## Measured

| metric | value |
| --- | --- |
{rows}

## Use

```
python evaluate.py ckpt=PATH_OF_THIS_FOLDER
```

`config.json` and the names of the weights are those of {family.name}, for the classes that it is published with.
"""


def _about_mask(denoiser: Denoiser) -> str:
    if isinstance(denoiser, Llama):
        return f"MASK is row {denoiser.mask_row} of the embedding, and must not be sampled."
    return f"MASK is token {denoiser.mask_id}; its row of the output layer is zero, and it must not be sampled."
