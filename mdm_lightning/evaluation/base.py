"""What an evaluation is: an object that turns a denoiser and data into tidy rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch

from mdm_lightning.data.source import PreparedData
from mdm_lightning.denoiser.base import Denoiser


class Row(NamedTuple):
    """One measured number."""

    metric: str
    value: float
    stderr: float | None
    """Standard error of the value; None where there is none to speak of."""
    n: int
    """Independent units (sequences) behind it."""
    settings: str
    """How it was measured, in words."""


@dataclass
class Subject:
    """What is evaluated.

    Attributes:
        denoiser: in evaluation mode, on its device.
        data: the data to evaluate on, and the tokenizer.
        device: where to compute.
        seed: of everything random.
        texts: generated text to show, filled by evaluations that generate.
    """

    denoiser: Denoiser
    data: PreparedData
    device: torch.device
    seed: int = 0
    texts: list[str] = field(default_factory=list)


class Evaluation(Protocol):
    def __call__(self, subject: Subject) -> Iterator[Row]: ...
