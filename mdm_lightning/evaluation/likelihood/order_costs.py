"""Measuring what steps cost along a static order: from it every counts and step budget is scored exactly."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.diffusion.masking import mask_counts
from mdm_lightning.diffusion.profile.order_table import OrderTable
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.profile import equal_sequences, revealed_counts
from mdm_lightning.evaluation.measuring import measure_losses
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import StaticOrder


@dataclass(frozen=True)
class OrderCosts:
    """The table of a static order on validation sequences, one forward pass per sequence and anchor.

    The orders are those that sampling gives the same sequences (``SequenceNoise``), and the costs those of walks with
    the same counts, at temperature 1. For tasks: over the response, given the prompt. A denoiser that is conditioned on
    time is told the share of positions that are revealed.

    Args:
        order: in which positions are revealed.
        anchors: numbers of revealed positions at which to measure, at most; all, if there are no more.
        sequences: how many; None for all.
        batch_size: sequences per forward pass.

    Raises:
        ValueError: a number is out of range.
    """

    order: StaticOrder
    anchors: int = 33
    sequences: int | None = 128
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, anchors=2, sequences=2, batch_size=1)

    def measure(self, subject: Subject) -> OrderTable:
        """The table; every process receives it.

        Raises:
            NotApplicable: the sequences differ in their number of maskable positions.
            UserError: there is but one, or the denoiser gives a token of the data probability zero.
            NoDistribution: the denoiser's logits are NaN or infinite.
        """
        length, units = equal_sequences(
            subject, self.sequences, self.batch_size, "the costs of an order need", "their costs along an order"
        )
        anchors = revealed_counts(length, self.anchors)
        losses = subject.processes.map(lambda unit: self._losses(subject, unit, anchors), units, "costs of an order")
        return OrderTable(anchors, torch.cat(losses).numpy())

    def _losses(self, subject: Subject, unit: range, anchors: list[int]) -> Float64[Tensor, "b a n"]:
        clean = subject.data.validation.__getitems__(unit)
        tokens, maskable = clean["tokens"], clean["maskable"]
        ranks = self.order.ranks(maskable, SequenceNoise(subject.seed, unit))
        n = int(maskable[0].sum())
        table = torch.zeros(len(unit), len(anchors), n, dtype=torch.float64)
        for place, revealed in enumerate(anchors):
            masks = torch.full((len(unit),), n - revealed)
            batch = mask_counts(tokens, maskable, subject.tokenizer.mask_id, masks, -ranks.double())
            sequence = torch.div(batch.rows, tokens.shape[1], rounding_mode="floor")
            table[sequence, place, ranks.flatten()[batch.rows]] = measure_losses(
                subject, batch, lambda row: f"validation sequence {unit.start + row}"
            )
        return table
