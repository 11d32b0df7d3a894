"""`python evaluate.py ckpt=... export=FOLDER`: the model in a published format, with what was just measured."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdm_lightning.checkpoint.load import Origin
from mdm_lightning.checkpoint.published import PublishedCheckpoint
from mdm_lightning.checkpoint.run import Run
from mdm_lightning.checkpoint.stored_config import named_class
from mdm_lightning.commands.start import open_base
from mdm_lightning.data.hub import TOKENIZER_FILES, has_tokenizer
from mdm_lightning.data.source import Source
from mdm_lightning.denoiser.attention import BlockCausal, Causal, Full
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.published.export import Layout, discard_unfinished, mdlm_layout, write_published
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.denoiser.transformer import Transformer
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject


def choose_layout(denoiser: Denoiser, origin: Origin) -> Layout:
    """The format to publish in: MDLM's for a DiT, and for what began as a published model that model's own.

    Raises:
        UserError: neither.
    """
    unstated = Unstated(block_size=_block_size(denoiser))
    if isinstance(denoiser, DiT):
        return mdlm_layout(denoiser, unstated)
    published = origin if isinstance(origin, PublishedCheckpoint) else None
    if isinstance(origin, Run) and origin.base is not None:
        published = open_base(origin)
    if published is None:
        raise UserError(
            f"export= writes DiTs, and models that began as a published one: {type(denoiser).__name__} is neither"
        )
    return Layout(published.model.family, _config(published, unstated), _files(published.path))


def refuse_occupied(folder: Path) -> None:
    """An export replaces nothing but what one that was killed has left: other runs may depend on the model there.

    Raises:
        UserError: the folder holds something.
    """
    discard_unfinished(folder.resolve())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"export={folder} is not empty, and might hold another model: choose a new folder")


def _block_size(denoiser: Denoiser) -> int | None:
    """Positions per block of the denoiser's attention, of which causal attention has one; None for full attention.

    Raises:
        UserError: the pattern is one that no format knows.
    """
    attention = denoiser.attention if isinstance(denoiser, Transformer) else Full()
    if isinstance(attention, BlockCausal):
        return attention.block_size
    if isinstance(attention, Causal):
        return 1
    if isinstance(attention, Full):
        return None
    raise UserError(f"export= knows no format that says attention {attention}")


def _config(published: PublishedCheckpoint, unstated: Unstated) -> dict[str, Any]:
    """The model's own configuration, with what the user has said of it and the attention that it has; the code that it
    names is where it was: on the hub, or nowhere."""
    model = published.model
    config = {**model.weights.config, **model.family.stated(published.unstated), **model.family.stated(unstated)}
    code = config.pop("auto_map", None)
    if isinstance(code, Mapping) and not Path(published.name).is_absolute():
        repository = published.name.partition("@")[0]
        config["auto_map"] = {key: f"{repository}--{str(name).rpartition('--')[2]}" for key, name in code.items()}
    return config


def _files(folder: Path) -> list[Path]:
    """What goes with the weights as it is: the tokenizer, and settings of generation."""
    if not has_tokenizer(folder):
        return []
    return [folder / name for name in (*TOKENIZER_FILES, "generation_config.json") if (folder / name).is_file()]


def export(subject: Subject, layout: Layout, origin: Origin, rows: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Writes the folder.

    Args:
        rows: by evaluation; the first of each metric that says how good the model is goes into the model card.

    Raises:
        UserError: the folder cannot be written to.
    """
    metrics: dict[str, float] = {}
    for evaluation, measured in rows.items():
        for row in measured:
            if row.better is not None and math.isfinite(row.value):
                metrics.setdefault(f"{evaluation}: {row.tag}", row.value)
    source = "Trained with mdm-lightning."
    if isinstance(origin, Run):
        data = origin.config["data"]
        name = data.get("name") or named_class(data, Source, origin.path).name
        source = f"Trained with mdm-lightning for {origin.step:,} steps on {name}."
        if origin.base is not None:
            source += f" It began as {Path(origin.base['origin']).name}."
    write_published(subject.denoiser, layout, subject.tokenizer.state(), folder, metrics, source)
