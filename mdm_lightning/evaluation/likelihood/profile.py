"""Measuring the loss profile: from it, every schedule and step budget is scored without generating anything."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from mdm_lightning.arguments import check_numbers
from mdm_lightning.diffusion.masking import mask_counts, seeded_generator
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject, batches
from mdm_lightning.evaluation.figures import profile_figure
from mdm_lightning.evaluation.measuring import measure_nelbo


@dataclass(frozen=True)
class Profile:
    """The loss profile on validation sequences: mean cross-entropy at a masked position by how much is revealed.

    Every sequence is measured at every knot, with nested masks, so that what the knots have in common cancels in the
    differences between schedules. For tasks: over the response, given the prompt.

    Args:
        knots: numbers of revealed positions at which to measure, at most; denser towards both ends.
        sequences: how many; None for all.
        batch_size: sequences per forward pass.

    Raises:
        ValueError: a number is out of range; a single sequence says nothing of the errors.
    """

    knots: int = 25
    sequences: int | None = 128
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, knots=2, sequences=2, batch_size=1)

    def __call__(self, subject: Subject) -> Iterator[Row]:
        profile, sequences = self.measure(subject)
        subject.outputs.file("profile.json", profile.to_json(subject.fingerprint))
        alphas = [r / profile.length for r in profile.counts]
        errors = np.sqrt(np.diag(profile.covariance)).tolist()
        for revealed, value, error in zip(profile.counts, profile.values, errors, strict=True):
            settings = {"data": subject.data.name, "revealed": int(revealed), "of": profile.length}
            yield Row("loss_profile", float(value), error, sequences, settings)
        subject.outputs.figure("profile", profile_figure(alphas, list(profile.values), errors))

    def measure(self, subject: Subject) -> tuple[LossProfile, int]:
        """The profile, and the number of sequences behind it.

        Raises:
            NotApplicable: the sequences differ in their number of maskable positions.
            UserError: there is but one.
        """
        length, units = equal_sequences(
            subject, self.sequences, self.batch_size, "a loss profile needs", "their profiles"
        )
        counts = revealed_counts(length, self.knots)
        scores = subject.processes.map(lambda unit: self._scores(subject, unit, length, counts), units, "loss profile")
        return LossProfile.from_scores(counts, torch.cat(scores).numpy(), length), sum(map(len, units))

    def _scores(self, subject: Subject, unit: range, length: int, counts: list[int]) -> Float64[Tensor, "b j"]:
        """Each sequence's mean cross-entropy in nats over its masked positions, at every knot."""
        clean = subject.data.validation.__getitems__(unit)
        generator = seeded_generator(subject.seed, unit.start)
        noise = torch.rand(clean["tokens"].shape, generator=generator, dtype=torch.float64)
        columns = []
        for revealed in counts:
            masks = torch.full((len(unit),), length - revealed)
            batch = mask_counts(clean["tokens"], clean["maskable"], subject.tokenizer.mask_id, masks, noise)
            estimate = measure_nelbo(subject, batch, lambda row: f"validation sequence {unit.start + row}")
            columns.append(estimate.cross_entropy / estimate.masks)
        return torch.stack(columns, dim=1)


def equal_sequences(
    subject: Subject, sequences: int | None, batch_size: int, needs: str, averaged: str
) -> tuple[int, list[range]]:
    """The number of maskable positions that all sequences have, and the sequences in batches.

    Args:
        sequences: how many; None for all.
        needs: what needs two of them, for messages.
        averaged: what does not average if they differ.

    Raises:
        NotApplicable: the sequences differ in their number of maskable positions, or the denoiser knows no masks.
        UserError: there is but one.
    """
    if subject.denoiser.autoregressive:
        raise NotApplicable(f"{needs} a denoiser of masked sequences, and this model is autoregressive")
    validation = subject.data.validation
    length = int(validation[0]["maskable"].sum())
    size = subject.validation_size(sequences)
    if size < 2:
        raise UserError(f"{needs} two validation sequences; data={subject.data.name} has one")
    units = batches(size, batch_size, subject.first)
    # On every process for all batches, before any is shared out: all must come to the same conclusion.
    if any((validation.__getitems__(unit)["maskable"].sum(1) != length).any() for unit in units):
        raise NotApplicable(f"the sequences of data={subject.data.name} differ in length: {averaged} do not average")
    return length, units


def revealed_counts(length: int, knots: int) -> list[int]:
    """Numbers of revealed positions from 0 to length - 1: all of them, or at most so many, denser towards both ends,
    where the profile bends."""
    if length <= knots:
        return list(range(length))
    share = np.sin(np.linspace(0, np.pi / 2, knots)) ** 2
    return sorted({round(x * (length - 1)) for x in share})
