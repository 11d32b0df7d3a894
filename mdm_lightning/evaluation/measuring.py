"""One forward pass of an evaluation: the NELBO of a batch, on the CPU, and never a number that is none."""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.denoiser.base import NoDistribution
from mdm_lightning.diffusion.masking import MaskedBatch
from mdm_lightning.diffusion.objective import Nelbo, losses, nelbo
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject


def measure_nelbo(subject: Subject, batch: MaskedBatch, name: Callable[[int], str]) -> Nelbo:
    """The estimate for a masked batch, in float64 on the CPU.

    Args:
        name: what the sequence of a row is called in an error.

    Raises:
        NoDistribution: the denoiser's logits at a masked position are NaN or infinite.
        UserError: it gives a token of the data probability zero, so that there is no finite NELBO.
    """
    batch = batch.to(subject.device)
    with torch.inference_mode():
        estimate = nelbo(subject.denoiser, batch)
        numbers = torch.stack([part.double() for part in estimate if part is not None]).cpu()
        if not bool(numbers[1].isfinite().all()):
            _refuse(losses(subject.denoiser, batch).cpu(), batch, name)
    return Nelbo(*numbers)


def measure_losses(subject: Subject, batch: MaskedBatch, name: Callable[[int], str]) -> Float64[Tensor, " m"]:
    """The cross-entropy at each masked position, in nats, on the CPU.

    Raises:
        NoDistribution, UserError: as ``measure_nelbo``.
    """
    batch = batch.to(subject.device)
    with torch.inference_mode():
        measured = losses(subject.denoiser, batch).double().cpu()
    if not bool(measured.isfinite().all()):
        _refuse(measured, batch, name)
    return measured


def _refuse(measured: Tensor, batch: MaskedBatch, name: Callable[[int], str]) -> None:
    """Names the first masked position whose cross-entropy is not finite."""
    first = int((~measured.isfinite()).int().argmax())
    sequence, position = divmod(int(batch.rows[first]), batch.tokens.shape[1])
    where = f"position {position} of {name(sequence)} (from 0)"
    if bool(measured[first].isnan()):
        raise NoDistribution(where)
    raise UserError(f"the model gives the token at {where} probability zero: there is no finite likelihood of the data")
