"""What training starts from: random weights, a run to go on with, or a published model to fine-tune."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mdm_lightning.checkpoint.find import CHECKPOINTS, LAST, RUNS, find_checkpoint, names_published
from mdm_lightning.checkpoint.published import PublishedCheckpoint, open_published
from mdm_lightning.checkpoint.run import INCIDENTAL, Run, describe, open_base, run_adapter
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.lora import Adapter, adapter_start, own_weights
from mdm_lightning.denoiser.published.family import Unstated
from mdm_lightning.diffusion.masking import seeded_generator
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What a training run starts from.

    Attributes:
        resumed: the run to go on with.
        published: the model whose weights are to be read: to fine-tune it, or since a resumed run holds adapters only.
    """

    resumed: Run | None = None
    published: PublishedCheckpoint | None = None

    @property
    def base(self) -> Mapping[str, str] | None:
        """What checkpoints note of the published model that the run began with."""
        if self.resumed is not None:
            return self.resumed.base
        return None if self.published is None else self.published.identity

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that comes with a run or a published model; None where ``tokenizer=`` chooses."""
        if self.published is not None:
            return self.published.tokenizer
        return None if self.resumed is None else Tokenizer.from_state(self.resumed.tokenizer_state)

    @property
    def sizes(self) -> Mapping[str, Any]:
        """Those settings of ``model=`` that a published model decides; empty without one, and for a run that has its
        own."""
        if self.published is None or self.resumed is not None:
            return {}
        return self.published.config


def find_start(ckpt: str | None, output: Path, tokenizer: DictConfig, unstated: Unstated) -> Start:
    """What ``ckpt=`` says to start from.

    With ``auto``, or a published model, a run that has begun in the output folder goes on.

    Args:
        tokenizer: what ``tokenizer=`` chose, for published models that bring none along.
        unstated: what a published model's files do not say.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read.
    """
    if ckpt is None:
        return Start()
    begun = output / CHECKPOINTS / LAST
    if names_published(ckpt):
        published = open_published(ckpt, tokenizer, unstated)
        return _resumed(begun, published) if begun.is_file() else Start(published=published)
    if ckpt == "auto":
        return _resumed(begun) if begun.is_file() else Start()
    return _resumed(find_checkpoint(ckpt, RUNS))


def _resumed(path: Path, beginning: PublishedCheckpoint | None = None) -> Start:
    """The run to go on with, which should have begun as the given model."""
    run = describe(path)
    if beginning is not None and (run.base is None or run.base["fingerprint"] != beginning.fingerprint):
        raise UserError(
            f"{path} is of a run that did not begin as {beginning.name}: choose another run_dir=, or go on with it by "
            "ckpt=auto"
        )
    return Start(run, open_base(run) if run_adapter(run).freezes else None)


def adopt_sizes(config: DictConfig, start: Start, overrides: list[str]) -> None:
    """Gives ``model`` of the configuration the sizes of a published model, but for a shorter ``length``.

    Args:
        overrides: of the command line, which may not ask for other sizes.

    Raises:
        UserError: ``model=`` is of another architecture, or asks for what the published model has not.
    """
    model, sizes = config.model, dict(start.sizes)
    if not sizes:
        return
    target = sizes.pop("_target_")
    if get_class(model._target_) is not get_class(target):
        assert start.published is not None
        raise UserError(
            f"ckpt={config.ckpt} is a {target.rpartition('.')[2]}, but model= chose a "
            f"{model._target_.rpartition('.')[2]}: choose model={start.published.model.family.size}"
        )
    sizes["length"] = min(model.length, sizes["length"])
    for name, value in sizes.items():
        if name in INCIDENTAL:
            continue
        spellings = (f"model.{name}=", f"model.{name}.", f"{name}@model.{name}=")
        asked = any(override.lstrip("+").startswith(spellings) for override in overrides)
        if asked and model.get(name) != value:
            raise UserError(f"model.{name}={model.get(name)}, but ckpt={config.ckpt} has {value}: leave it out")
    with open_dict(model):
        model.update({name: value for name, value in sizes.items() if name not in INCIDENTAL | {"vocab_size"}})


@dataclass(frozen=True)
class StartingWeights:
    """What a denoiser without memory starts from: gives it memory, published weights, and an adapter's first values.

    Args:
        published: where the weights are.
        seed: of the adapter's first values, which are the same however many processes there are.
    """

    published: PublishedCheckpoint
    seed: int

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, device: torch.device) -> None:
        """Fills the denoiser, whole or this process's shards of it, on its device.

        Raises:
            UserError: the weights are damaged.
        """
        denoiser.to_empty(device=device)
        arguments = self.published.arguments
        self.published.model.fill(own_weights(denoiser), arguments, _place)
        state = denoiser.state_dict()
        for name, value in adapter_start(denoiser, seeded_generator(self.seed)).items():
            _place(state[name], value)


def give_memory(denoiser: Denoiser, device: torch.device) -> None:
    """For a denoiser whose weights a checkpoint is about to fill in."""
    denoiser.to_empty(device=device)


def _place(target: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into one that may be sharded; then all processes must take part."""
    if isinstance(target, DTensor):
        local = value.to(target.device, target.dtype)
        value = distribute_tensor(local.contiguous(), target.device_mesh, target.placements)
    target.copy_(value)


def build_published(
    published: PublishedCheckpoint, model: DictConfig, adapter: Adapter, dtype: torch.dtype
) -> Denoiser:
    """A denoiser without memory for published weights, with the settings of ``model`` that do not change its sizes."""
    settings: Any = OmegaConf.to_container(model, resolve=True)
    del settings["_target_"]
    parts = {name: instantiate(part) for name, part in settings.items() if isinstance(part, dict)}
    denoiser = published.model.build({**published.arguments, **settings, **parts}, dtype)
    adapter.inject(denoiser)
    return denoiser
