"""What ``trainer.precision`` says: in which data type weights are kept, and in which one computes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig

from mdm_lightning.errors import UserError

_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


def stored_precision(trainer: DictConfig, *, frozen: bool = False) -> torch.dtype:
    """The data type of the weights: float32 under mixed precision, but for weights that are never trained.

    Raises:
        UserError: there is no such precision.
    """
    dtype, mixed = _read(trainer)
    return torch.float32 if mixed and not frozen else dtype


def refuse_low_precision(trainer: DictConfig) -> None:
    """For training, whose steps would be lost in weights of 8 or 11 bits, and whose loss weights would be rounded.

    Raises:
        UserError: the weights that are trained would not be float32 or float64.
    """
    dtype, mixed = _read(trainer)
    if not mixed and dtype.itemsize < 4:
        bits = "bf16" if dtype == torch.bfloat16 else "16"
        raise UserError(
            f"trainer.precision={trainer.precision} keeps the weights that are trained in {dtype}, too coarse for "
            f"their steps: use trainer.precision={bits}-mixed (which keeps in it those that are not trained)"
        )


def precision_context(trainer: DictConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision where ``trainer.precision`` asks for it.

    Raises:
        UserError: there is no such precision.
    """
    dtype, mixed = _read(trainer)
    return torch.autocast(device.type, dtype) if mixed and dtype != torch.float32 else nullcontext()


def _read(trainer: DictConfig) -> tuple[torch.dtype, bool]:
    """The data type to compute in, and whether the weights stay in float32."""
    bits, _, kind = str(trainer.precision).partition("-")
    if bits not in _DTYPES or kind not in ("", "true", "mixed"):
        raise UserError(
            f"trainer.precision={trainer.precision}: use 32-true, bf16-mixed, bf16-true, 16-mixed or 64-true"
        )
    return _DTYPES[bits], kind == "mixed" or (kind == "" and bits in ("16", "bf16"))
