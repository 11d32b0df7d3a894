"""Likelihood against distributions whose NELBO is known: for an exact denoiser it is -log p(x)."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mdm_lightning.denoiser.base import NoDistribution
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.masking import CountMasking, ForwardProcess, IndependentMasking, StepMasking
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes, UniformTimes
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.profile import Profile
from tests.diffusion.tables import uniform_denoiser
from tests.sampling.toys import FLAWS, Broken

from .corpora import Rows, text_subject

LAW = {"abca": 8, "abcc": 4, "bcab": 2, "ccaa": 1, "cbab": 1}
"""Sixteenths: validation holds each text as often as the distribution demands, so that its mean is the
distribution's."""
BETA = BetaSchedule(0.9, 0.3)
COUNT = CountMasking(StratifiedTimes())
CONTINUOUS = IndependentMasking(BETA, StratifiedTimes())


def distribution_subject(copies: int = 20, seed: int = 3) -> Subject:
    """Validation texts in the distribution's proportions, and the distribution's exact denoiser."""
    texts = [text for text, weight in LAW.items() for _ in range(weight * copies)]
    subject = text_subject(texts, texts)
    ids = subject.tokenizer.encode_batch(list(LAW))
    denoiser = ExactDenoiser(ids, [float(w) for w in LAW.values()], subject.tokenizer.vocab_size)
    return dataclasses.replace(subject, denoiser=denoiser, seed=seed)


def measure(masking: ForwardProcess, subject: Subject, **options: int) -> dict[str, Row]:
    return {row.metric: row for row in Likelihood(masking, **options)(subject)}


def exact(subject: Subject) -> np.ndarray:
    """-log p of each validation text, nats."""
    nats = {text: -math.log(weight / 16) for text, weight in LAW.items()}
    texts = [subject.tokenizer.decode(row) for row in subject.data.validation.stream.reshape(-1, 4)]
    return np.array([nats[text] for text in texts])


@pytest.mark.parametrize("masking", [COUNT, CONTINUOUS, CountMasking(UniformTimes())], ids=str)
def test_the_nelbo_of_an_exact_denoiser_is_the_negative_log_likelihood(masking):
    """Of each text, whatever the order of its tokens: five standard errors of the Monte-Carlo noise, and the mean over
    texts exactly that of their own log-likelihoods; by chance once in 1e6."""
    subject = distribution_subject()
    row = measure(masking, subject, draws=4)["nelbo_nats_per_token"]
    noise = 4 * np.array(row.scores) - exact(subject)
    assert abs(noise.mean()) < 5 * noise.std(ddof=1) / math.sqrt(row.n)
    assert row.n == len(noise) == 320
    assert row.value == pytest.approx(np.mean(row.scores))
    assert row.stderr == pytest.approx(np.std(row.scores, ddof=1) / math.sqrt(row.n), rel=1e-6)


@pytest.mark.parametrize("schedule", [LinearSchedule(), BETA])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_k_step_nelbo_is_what_the_profile_says(schedule, steps):
    """The distribution's mean, five standard errors; by chance once in 1e6. With one step there is nothing to draw."""
    subject = distribution_subject()
    row = measure(StepMasking(schedule, StratifiedTimes(), steps), subject, draws=4)["nelbo_nats_per_token"]
    ids = subject.tokenizer.encode_batch(list(LAW))
    expected = LossProfile.from_distribution(ids, [w / 16 for w in LAW.values()]).nelbo(schedule, steps).value / 4
    tolerance = 1e-6 if steps == 1 else 5 * (row.stderr or 0)
    assert abs(row.value - expected) < tolerance
    assert row.settings["estimator"] == f"{steps}-step NELBO, {schedule}"


def test_draws_reduce_the_monte_carlo_error():
    """Over 40 seeds the variance with 8 draws is far below that with one; equal variances would differ by a factor of
    four or more with probability below 1e-4."""
    variances = []
    for draws in (1, 8):
        values = [
            measure(CountMasking(UniformTimes()), distribution_subject(1, seed), draws=draws)[
                "nelbo_nats_per_token"
            ].value
            for seed in range(40)
        ]
        variances.append(np.var(values, ddof=1))
    assert variances[1] < variances[0] / 4


@pytest.mark.parametrize("batch_size", [1, 7, 500])
@pytest.mark.parametrize("draws", [1, 3])
def test_without_knowledge_every_token_costs_log_d(batch_size, draws):
    """Neither the batch size nor the draws matter then: count-based estimates have nothing left to chance."""
    subject = distribution_subject(1)
    subject = dataclasses.replace(subject, denoiser=uniform_denoiser(4, subject.tokenizer.vocab_size))
    rows = measure(COUNT, subject, draws=draws, batch_size=batch_size)
    row = rows["nelbo_nats_per_token"]
    assert row.value == pytest.approx(math.log(subject.tokenizer.vocab_size), rel=1e-6)
    assert row.stderr == pytest.approx(0, abs=1e-6)
    assert rows["perplexity"].value == pytest.approx(subject.tokenizer.vocab_size, rel=1e-6)


def test_another_batch_size_is_another_estimate_of_the_same():
    """It deals out other masks. What stays are the sequences: paired differences average to nothing."""
    subject = distribution_subject()
    one, other = (
        np.array(measure(COUNT, subject, batch_size=size, draws=2)["nelbo_nats_per_token"].scores) for size in (64, 17)
    )
    difference = one - other
    assert np.abs(difference).max() > 0
    assert abs(difference.mean()) < 5 * difference.std(ddof=1) / math.sqrt(len(difference))


def test_units():
    subject = distribution_subject(2)
    data = dataclasses.replace(subject.data, bytes_per_position=2.5)
    subject = dataclasses.replace(subject, prepare=lambda: data)
    rows = measure(COUNT, subject)
    nelbo = rows["nelbo_nats_per_token"]
    assert rows["perplexity"].value == pytest.approx(math.exp(nelbo.value))
    assert rows["perplexity"].stderr == pytest.approx(math.exp(nelbo.value) * nelbo.stderr)
    assert rows["bits_per_byte"].value == pytest.approx(nelbo.value / math.log(2) / 2.5)
    unknown = dataclasses.replace(data, bytes_per_position=None)
    without = dataclasses.replace(subject, prepare=lambda: unknown)
    assert set(measure(COUNT, without)) == {"nelbo_nats_per_token", "perplexity"}
    assert all(row.better == "lower" for row in rows.values())


class Prompted(Rows):
    """Of sequence i only the last 1 + i % 4 positions may be masked."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        free = 1 + torch.tensor(list(indices)) % 4
        batch["maskable"] = torch.arange(4) >= 4 - free[:, None]
        return batch


def test_sequences_of_unequal_lengths_count_by_their_positions():
    """All nats over all positions, not a mean of means; the error is that of a ratio (delta method)."""
    subject = distribution_subject(1)
    data = dataclasses.replace(subject.data, validation=Prompted(subject.data.validation.stream.reshape(-1, 4)))
    subject = dataclasses.replace(subject, prepare=lambda: data)
    row = measure(COUNT, subject, draws=2)["nelbo_nats_per_token"]
    positions = 1 + np.arange(16) % 4
    nats = np.array(row.scores) * positions.mean()
    assert row.value == pytest.approx(nats.sum() / positions.sum())
    linearised = (nats - row.value * positions) / positions.mean()
    assert row.stderr == pytest.approx(linearised.std(ddof=1) / 4)


class Answers(Rows):
    """A question of one token; what follows it may be masked."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        batch["maskable"][:, 0] = False
        return batch


@pytest.mark.parametrize("masking", [COUNT, CONTINUOUS], ids=str)
def test_what_an_answer_costs_does_not_depend_on_the_fill(masking):
    """Two letters of which either is as likely, EOS, and more of them: 2 ln 2 nats, over 3 positions or over all.
    Five standard errors."""
    for length in (5, 60):
        subject = text_subject(["qab"], ["qab"])
        tokenizer = subject.tokenizer
        distribution = [tokenizer.encode("q" + x + y) + [tokenizer.eos_id] * (length - 3) for x in "ab" for y in "ab"]
        data = dataclasses.replace(
            subject.data, validation=Answers(np.array(distribution * 100)), length=length, answer_end=tokenizer.eos_id
        )
        denoiser = ExactDenoiser(distribution, vocab_size=tokenizer.vocab_size)
        subject = dataclasses.replace(subject, denoiser=denoiser, length=length, prepare=lambda data=data: data)
        rows = measure(masking, subject, draws=4)
        whole, ended = rows["nelbo_nats_per_token"], rows["nelbo_nats_per_token_to_first_eos"]
        assert abs(whole.value - 2 * math.log(2) / (length - 1)) < 5 * (whole.stderr or 0)
        assert abs(ended.value - 2 * math.log(2) / 3) < 5 * (ended.stderr or 0)
        assert rows["perplexity_to_first_eos"].value == pytest.approx(math.exp(ended.value))
        assert whole.settings["positions"] == "responses and the fill after their first EOS"
        assert ended.settings["positions"] == "responses up to and including their first EOS"


def test_bits_per_byte_that_are_left_out_are_named():
    subject = distribution_subject(1)
    data = dataclasses.replace(subject.data, bytes_per_position=None, changed_text=0.25)
    rows = measure(COUNT, dataclasses.replace(subject, prepare=lambda: data))
    assert "bits_per_byte" not in rows
    for row in rows.values():
        reason = "left out: the tokenizer does not give back 25 % of the validation text as it was"
        assert row.settings["bits_per_byte"] == reason


def test_a_window_of_the_validation_sequences():
    """Sequences from ``first`` on, as many as wanted and there are."""
    subject = distribution_subject(1)
    for first, wanted, expected in ((0, 5, 5), (10, None, 6), (14, 5, 2)):
        subject.first = first
        assert measure(COUNT, subject, **({} if wanted is None else {"sequences": wanted}))["perplexity"].n == expected
    # One step masks everything: each text costs the sum of its tokens' marginal -log p.
    subject.first = 8
    scores = measure(StepMasking(BETA, UniformTimes(), 1), subject, sequences=4)["nelbo_nats_per_token"].scores or []
    subject.first = 0
    whole = measure(StepMasking(BETA, UniformTimes(), 1), subject)["nelbo_nats_per_token"].scores or []
    assert scores == pytest.approx(whole[8:12], rel=1e-6)
    subject.first = 16
    with pytest.raises(UserError, match="16 validation sequences, none from 16 on"):
        measure(COUNT, subject)


def test_a_single_sequence_has_no_standard_error():
    assert math.isnan(measure(COUNT, distribution_subject(1), sequences=1)["nelbo_nats_per_token"].stderr or 0)


@pytest.mark.parametrize("name", ["draws", "batch_size", "sequences"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        Likelihood(COUNT, **{name: 0})


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize(
    "evaluation",
    [
        Likelihood(COUNT, draws=4),
        Likelihood(CONTINUOUS),
        Likelihood(StepMasking(BETA, UniformTimes(), 2)),
        Profile(sequences=None),
    ],
    ids=lambda evaluation: getattr(getattr(evaluation, "estimator", None), "estimator", "profile"),
)
def test_logits_that_are_no_distribution_stop_it(flaw, evaluation):
    """One line with the place, and no number. The flaw shows wherever the last position of "ccaa" is masked."""
    subject = distribution_subject()
    c = subject.tokenizer.encode("c")[0]
    texts = [subject.tokenizer.decode(row) for row in subject.data.validation.stream.reshape(-1, 4)]
    subject.denoiser = Broken(subject.denoiser, flaw, position=3, beginning=c)
    with pytest.raises(NoDistribution, match=r"position 3 of validation sequence (\d+)") as stopped:
        list(evaluation(subject))
    number = int(str(stopped.value).split("validation sequence ")[1].split()[0])
    assert texts[number].startswith("c")


def test_a_token_of_probability_zero_has_no_likelihood():
    subject = distribution_subject()
    subject.denoiser = ExactDenoiser([[0, 1, 2, 0]], vocab_size=subject.tokenizer.vocab_size)
    with pytest.raises(UserError, match=r"the token at position \d of validation sequence \d+ .* probability zero"):
        list(Likelihood(COUNT)(subject))
