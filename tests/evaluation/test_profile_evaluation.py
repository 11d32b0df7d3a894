"""Measuring the loss profile: against the profile that a distribution is known to have."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import NotApplicable, Subject
from mdm_lightning.evaluation.likelihood.profile import Profile, revealed_counts

from .corpora import Rows, Shown, text_subject
from .test_likelihood import LAW, Prompted, distribution_subject


class Kept(Shown):
    """Remembers files and figures."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        self.figures: list[str] = []

    def file(self, name, content):
        self.files[name] = content
        return name

    def figure(self, name, figure):
        self.figures.append(name)


def exact_profile(subject: Subject) -> LossProfile:
    return LossProfile.from_distribution(subject.tokenizer.encode_batch(list(LAW)), [w / 16 for w in LAW.values()])


def test_the_measured_profile_is_the_distributions():
    """Within five standard errors at every knot, by chance once in 1e6; without any context nothing is random."""
    subject = distribution_subject()
    measured, sequences = Profile(sequences=None).measure(subject)
    expected = exact_profile(subject)
    assert sequences == 320
    assert measured.counts.tolist() == expected.counts.tolist() == [0, 1, 2, 3]
    errors = np.sqrt(np.diag(measured.covariance))
    assert (np.abs(measured.values - expected.values) < 5 * errors + 1e-6).all()
    assert measured.values[0] == pytest.approx(expected.values[0], abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_predictions_have_the_error_they_claim(steps):
    """The gap of a schedule from 60 measurements with other masks: squared distances from the truth, in units of the
    claimed variance. Their mean is one or less (less, because the texts are in exact proportion), and for normal errors
    exceeds 1.8 with probability below 1e-4; errors that are too small by half would make it four."""
    schedule = LinearSchedule()
    truth = exact_profile(distribution_subject(1)).gap(schedule, steps).value
    squares = []
    for seed in range(60):
        estimate = Profile(sequences=None).measure(distribution_subject(4, seed))[0].gap(schedule, steps)
        squares.append(((estimate.value - truth) / estimate.stderr) ** 2)
    assert np.mean(squares) < 1.8


def test_rows_file_and_figure(tmp_path):
    subject, outputs = distribution_subject(2), Kept()
    subject.outputs = outputs
    subject.fingerprint = "abc"
    rows = list(Profile(sequences=20, batch_size=8)(subject))
    saved = tmp_path / "profile.json"
    saved.write_text(outputs.files["profile.json"])
    profile = LossProfile.load(saved, "abc")
    assert [row.value for row in rows] == profile.values.tolist()
    assert [row.stderr for row in rows] == pytest.approx(np.sqrt(np.diag(profile.covariance)).tolist())
    assert [row.settings["revealed"] for row in rows] == profile.counts.tolist()
    assert {row.n for row in rows} == {20}
    assert outputs.figures == ["profile"]
    with pytest.raises(UserError, match="another checkpoint"):
        LossProfile.load(saved, "abd")


@given(length=st.integers(1, 2000), knots=st.integers(2, 60))
def test_knots(length, knots):
    """From nothing to all but one revealed, at most so many, in strict order; every number where there is room."""
    counts = revealed_counts(length, knots)
    assert counts[0] == 0
    assert counts[-1] == length - 1
    assert all(a < b for a, b in itertools.pairwise(counts))
    assert len(counts) <= knots


def test_prompts_are_not_measured():
    """Of responses, given the prompt: with one free position out of four, its entropy given the other three."""

    class LastOnly(Rows):
        def __getitems__(self, indices):
            batch = super().__getitems__(indices)
            batch["maskable"] = (torch.arange(4) == 3).expand(len(indices), 4)
            return batch

    subject = distribution_subject(4)
    data = dataclasses.replace(subject.data, validation=LastOnly(subject.data.validation.stream.reshape(-1, 4)))
    subject = dataclasses.replace(subject, prepare=lambda: data)
    measured, _ = Profile(sequences=None).measure(subject)
    # Only after "abc" the last token is open: a with probability 8/12.
    conditional = -(8 * math.log(8 / 12) + 4 * math.log(4 / 12)) / 16
    assert measured.length == 1
    assert measured.values == pytest.approx([conditional], rel=1e-6)


def test_sequences_of_unequal_lengths_have_no_common_profile():
    subject = distribution_subject(1)
    data = dataclasses.replace(subject.data, validation=Prompted(subject.data.validation.stream.reshape(-1, 4)))
    with pytest.raises(NotApplicable, match="differ in length"):
        Profile().measure(dataclasses.replace(subject, prepare=lambda: data))


def test_one_sequence_is_too_few():
    subject = text_subject(["ab"], ["ab"], distribution=["ab", "ba"])
    with pytest.raises(UserError, match="two validation sequences"):
        Profile().measure(subject)


@pytest.mark.parametrize(("name", "value"), [("knots", 1), ("sequences", 1), ("batch_size", 0)])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        Profile(**{name: value})
