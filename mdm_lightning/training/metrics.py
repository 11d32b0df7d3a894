"""NELBO and loss profile as torchmetrics: sums in float64, synchronised over processes when computed."""

import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics import Metric

from mdm_lightning.diffusion.masking import MaskedBatch
from mdm_lightning.diffusion.objective import Nelbo


class NelboMetric(Metric):
    """NELBO in nats per maskable position: all nats over all positions, not a mean of means."""

    full_state_update = False
    nats: Tensor
    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("positions", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, estimate: Nelbo, batch: MaskedBatch) -> None:
        self.nats = self.nats.double() + estimate.per_sequence.detach().sum(dtype=torch.float64)
        self.positions = self.positions.double() + batch.lengths.sum()

    def compute(self) -> Float64[Tensor, ""]:
        return self.nats / self.positions


class AnswerNelboMetric(NelboMetric):
    """The part of the NELBO at the positions of answers, first EOS included and fill left out, in nats per position.

    What fills a sequence behind its answer is seen where it is revealed, but does not count.
    """

    def update(self, estimate: Nelbo, batch: MaskedBatch) -> None:
        if estimate.answer is not None and batch.answer_lengths is not None:
            self.nats = self.nats.double() + estimate.answer.detach().sum(dtype=torch.float64)
            self.positions = self.positions.double() + batch.answer_lengths.sum()


class ProfileMetric(Metric):
    """The loss profile h(alpha): mean cross-entropy in nats at a masked position, by the fraction of tokens kept.

    Args:
        bins: number of equal intervals of alpha over [0, 1].
    """

    full_state_update = False
    nats: Tensor
    masks: Tensor

    def __init__(self, bins: int = 10) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("nats", torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("masks", torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, estimate: Nelbo, batch: MaskedBatch) -> None:
        bin_of = (batch.alpha * self.bins).long().clamp(max=self.bins - 1)
        self.nats = self.nats.double().index_add(0, bin_of, estimate.cross_entropy.detach().double())
        self.masks = self.masks.double().index_add(0, bin_of, estimate.masks.double())

    def compute(self) -> Float64[Tensor, " bins"]:
        """Nats per masked position in each interval; NaN where nothing was masked."""
        return self.nats / self.masks

    def centres(self) -> list[float]:
        """The middle of each interval of alpha."""
        return [(i + 0.5) / self.bins for i in range(self.bins)]


class CountProfileMetric(Metric):
    """The loss profile by exact numbers of revealed positions, as the sums that ``fit_profile`` takes.

    Args:
        length: the most maskable positions that a sequence may have.
    """

    full_state_update = False
    lengths: Tensor
    moments: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.add_state("lengths", torch.zeros(length + 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("moments", torch.zeros(length, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, estimate: Nelbo, batch: MaskedBatch) -> None:
        if batch.clean is not None:  # every block has a number of its own
            return
        masks = estimate.masks.double()
        counted = (masks > 0).double()
        scores = estimate.cross_entropy.detach().double() / masks.clamp(min=1)
        # What has nothing masked counts nowhere; it may not index one past the end, either.
        revealed = (batch.lengths - estimate.masks.long()) * counted.long()
        added = torch.stack([counted, scores, scores**2], dim=1)
        self.moments = self.moments.double().index_add(0, revealed, added)
        self.lengths = self.lengths.double().index_add(0, batch.lengths, counted)

    def compute(self) -> Float64[Tensor, "n 3"] | None:
        """For r = 0 ... n - 1 revealed positions: the number of sequences, the sum of their scores (mean cross-entropy
        at the masked positions, in nats), and of the scores' squares. None unless all sequences have equally many
        maskable positions, n, and are masked as a whole."""
        present = self.lengths.nonzero()
        return self.moments[: int(present)] if len(present) == 1 else None
