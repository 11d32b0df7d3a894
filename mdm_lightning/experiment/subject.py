"""From `ckpt=`, `data=` and `trainer=` to the subject of an evaluation: a denoiser on its device, with its data.

The denoiser is that of a checkpoint, or, without one, the exact denoiser of a law that `data=` gives.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from mdm_lightning.data.source import Source
from mdm_lightning.data.tasks import TaskSource
from mdm_lightning.data.tokenizer import Tokenizer
from mdm_lightning.data.tokenizer_spec import TokenizerSpec
from mdm_lightning.data.toy import LawSource
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.experiment.runs import RUNS, Run, describe, find_checkpoint, load_checkpoint
from mdm_lightning.training.module import DENOISER

_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


class _Given(TokenizerSpec):
    """The tokenizer that the checkpoint carries."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def build(self, documents: Callable[[], Iterable[str]], cache: Path) -> Tokenizer:
        return self.tokenizer


@dataclass(frozen=True)
class Oracle:
    """The exact denoiser of a law, where a run's checkpoint would be."""

    source: LawSource
    step: int = 0

    @property
    def path(self) -> str:
        """What stands in the place of a checkpoint's path."""
        return f"the exact denoiser of {self.source.law.name}"

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint


def find_origin(ckpt: str | None, data: DictConfig | None) -> Run | Oracle | None:
    """Where the denoiser comes from: the checkpoint, or without one the law that ``data=`` gives; None without either.

    Raises:
        UserError: there is no such checkpoint, or no such law.
    """
    if ckpt is not None:
        return describe(find_checkpoint(ckpt, RUNS))
    if data is None or not issubclass(get_class(data._target_), LawSource):
        return None
    return Oracle(instantiate(data))


def needs_checkpoint(command: str) -> UserError:
    """What to say where there is no origin."""
    return UserError(
        f"{command} needs a checkpoint: ckpt=last, ckpt=RUN_FOLDER or ckpt=FILE.ckpt (experiment=toy does without)"
    )


def choose_origin(origin: Run | Oracle) -> str:
    """The override by which other processes mean the same origin."""
    return f"ckpt='{origin.path}'" if isinstance(origin, Run) else "ckpt=null"


def load_subject(
    origin: Run | Oracle, data: DictConfig | None, trainer: DictConfig, cache: Path, seed: int, processes: Processes
) -> Subject:
    """The denoiser, its tokenizer, and data to evaluate it on.

    Args:
        data: what ``data=`` chose; None for the data that the run was trained on.

    Raises:
        UserError: the checkpoint, the data, the device and the precision do not fit together.
    """
    if isinstance(origin, Oracle):
        return law_subject(origin, trainer, cache, seed, processes)
    return checkpoint_subject(origin, data, trainer, cache, seed, processes)


def law_subject(oracle: Oracle, trainer: DictConfig, cache: Path, seed: int, processes: Processes) -> Subject:
    """The exact denoiser of a law, in float64 whatever the precision, and sequences drawn from the law."""
    source, device = oracle.source, choose_device(trainer)
    law = source.law
    return Subject(
        denoiser=ExactDenoiser(law.sequences, law.probabilities, law.vocab_size).to(device).eval(),
        tokenizer=source.tokenizer,
        length=source.length,
        prepare=lambda: source.prepare(None, cache),
        law=law,
        fingerprint=oracle.fingerprint,
        device=device,
        seed=seed,
        processes=processes,
    )


def checkpoint_subject(
    run: Run, data: DictConfig | None, trainer: DictConfig, cache: Path, seed: int, processes: Processes
) -> Subject:
    """The averaged weights of a run, its tokenizer, and data to evaluate them on."""
    tokenizer = Tokenizer.from_state(run.tokenizer_state)
    denoiser: Denoiser = instantiate(run.config["model"], vocab_size=tokenizer.vocab_size)
    _load_weights(denoiser, run.path)
    device = choose_device(trainer)
    dtype, mixed = _precision(trainer)
    source = _source(run, data)
    own = source.tokenizer if isinstance(source, TaskSource | LawSource) else None
    if own is not None and own.fingerprint != tokenizer.fingerprint:
        raise UserError(f"data={source.name} has another tokenizer than {run.path}: they do not go together")
    if source.length > denoiser.length:
        raise UserError(f"data.length={source.length} is beyond the model's length {denoiser.length}: set data.length=")

    return Subject(
        denoiser=denoiser.to(device, torch.float32 if mixed else dtype).eval(),
        tokenizer=own or tokenizer,
        length=source.length,
        prepare=lambda: source.prepare(_Given(tokenizer) if own is None else None, cache),
        task=source if isinstance(source, TaskSource) else None,
        law=source.law if isinstance(source, LawSource) else None,
        fingerprint=run.fingerprint,
        device=device,
        seed=seed,
        processes=processes,
    )


def precision_context(trainer: DictConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision where ``trainer.precision`` asks for it."""
    dtype, mixed = _precision(trainer)
    return torch.autocast(device.type, dtype) if mixed and dtype != torch.float32 else nullcontext()


def choose_device(trainer: DictConfig) -> torch.device:
    """The device of this process.

    Raises:
        UserError: the accelerator is not supported.
    """
    if trainer.accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={trainer.accelerator}: evaluation runs on auto, cpu or gpu")
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    listed = OmegaConf.is_list(trainer.devices)
    return torch.device("cuda", trainer.devices[local_rank] if listed else local_rank)


def _precision(trainer: DictConfig) -> tuple[torch.dtype, bool]:
    """The data type to compute in, and whether the weights stay in float32."""
    bits, _, kind = str(trainer.precision).partition("-")
    if bits not in _DTYPES or kind not in ("", "true", "mixed"):
        raise UserError(
            f"trainer.precision={trainer.precision}: use 32-true, bf16-mixed, bf16-true, 16-mixed or 64-true"
        )
    return _DTYPES[bits], kind == "mixed" or (kind == "" and bits in ("16", "bf16"))


def _load_weights(denoiser: Denoiser, path: Path) -> None:
    stored = load_checkpoint(path)["state_dict"]
    weights = {name.removeprefix(DENOISER): value for name, value in stored.items() if name.startswith(DENOISER)}
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit the model described there: {error}") from error


def _source(run: Run, data: DictConfig | None) -> Source:
    # Configurations of data refer to the model's length.
    config: Any = {"model": run.config["model"], "data": run.config["data"]}
    if data is not None:
        config["data"] = OmegaConf.to_container(data, resolve=False)
    return instantiate(OmegaConf.create(config).data)
