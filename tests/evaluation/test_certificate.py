"""The certificate: against enumerated distributions of what samplers generate."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdm_lightning.data.tasks.toy import balanced
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.certificate import Certificate
from mdm_lightning.evaluation.paper.exact_distribution import ExactSampler, divergence
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.cache import DualCache, NoCache
from mdm_lightning.sampling.count import Binomial, EntropyBounded, Expected, FirstHitting
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Entropy, LeftToRight, Random
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import walk
from tests.diffusion.tables import random_denoiser
from tests.sampling.test_cache import llama

from .test_exact_distribution import toy_subject

SAMPLER = Sampler(BetaSchedule(0.9, 0.3), Expected(), Random(), steps=3)


def certified(subject: Subject, sampler: Sampler, sequences: int, seed: int = 0) -> tuple[float, float, float]:
    """Mean, its standard error, and the bound."""
    subject.seed = seed
    mean, bound = Certificate(sampler, sequences, floor=1e-3, batch_size=1000)(subject)
    return mean.value, mean.stderr or 0.0, bound.value


@pytest.mark.parametrize("count", [Expected(), Binomial()])
def test_the_exact_denoiser(count):
    """The mean is section 4's gap (within five standard errors, and what the floor takes off it), which is no less than
    the true divergence of the enumerated output; the bound is above both, and at this size close."""
    sampler = replace(SAMPLER, count=count)
    toy, profile = balanced(), LossProfile.from_distribution(balanced().sequences, balanced().probabilities)
    if isinstance(count, Binomial):
        gap = profile.gap(sampler.schedule, 3).value
    else:
        gap = profile.gap_of_counts(Expected().counts(sampler.schedule, 3, 5)).value
    exact = ExactSampler(toy)
    truth = divergence(exact.target, exact.distribution(sampler.schedule, 3, count))
    mean, error, bound = certified(toy_subject(), sampler, 4000)
    assert abs(mean - gap) < 5 * error + 5e-3
    assert truth <= gap < bound < gap + 0.3


def test_the_bound_holds_as_often_as_it_says():
    """Also with few sequences, where the term for rare events is most of it; their mean is too low every other time."""
    profile = LossProfile.from_distribution(balanced().sequences, balanced().probabilities)
    gap = profile.gap_of_counts(Expected().counts(SAMPLER.schedule, 3, 5)).value
    found = [certified(toy_subject(), SAMPLER, 100, seed) for seed in range(40)]
    assert sum(bound >= gap for _, _, bound in found) >= 38
    assert sum(mean >= gap for mean, _, _ in found) < 35


def test_any_denoiser():
    """Predictions that are no law's conditionals: the divergence of outputs in one order, by their likelihoods."""
    subject = toy_subject(random_denoiser(3, 2, seed=3), None)
    subject.length = 3
    sampler = Sampler(LinearSchedule(), Expected(), LeftToRight(), steps=2)
    everything = torch.tensor(list(itertools.product(range(2), repeat=3)))
    walks = (
        walk(one, subject.denoiser, everything, torch.ones_like(everything) > 0, SequenceNoise(0, range(8)))
        for one in (replace(sampler, count=FirstHitting(), steps=None), sampler)
    )
    sequential, parallel = (one.cost for one in walks)
    truth = float((sequential.neg().exp() * (parallel - sequential)).sum())
    mean, error, bound = certified(subject, sampler, 4000)
    assert truth > 0.01
    assert abs(mean - truth) < 5 * error + 3e-3
    assert truth < bound


def test_one_position_per_step_loses_nothing():
    """Up to the floor."""
    mean, _, _ = certified(toy_subject(), replace(SAMPLER, count=FirstHitting()), 50)
    assert 0 <= mean < 5 * 1.1e-3


def test_rows_and_words():
    subject = toy_subject()
    mean, bound = Certificate(SAMPLER, 20)(subject)
    assert (mean.metric, bound.metric, mean.n, mean.better) == ("parallel_kl", "parallel_kl_bound", 20, "lower")
    assert mean.settings["against"] == "the data"
    assert bound.settings["confidence"] == 0.95
    assert mean.scores is not None
    assert np.mean(mean.scores) == pytest.approx(mean.value)
    again, _ = Certificate(SAMPLER, 20, batch_size=3)(subject)
    assert again.scores == pytest.approx(mean.scores)
    assert max(mean.scores) <= 5 * math.log(2 / 1e-5)


@pytest.mark.parametrize(
    "changed",
    [{"tokens": TokenSampler(temperature=0.5)}, {"tokens": TokenSampler(top_k=1)}, {"guidance": Guidance(1.0)}],
)
def test_only_what_draws_as_predicted_is_measured_against_the_data(changed):
    mean, _ = Certificate(replace(SAMPLER, **changed), 4)(toy_subject())
    assert mean.settings["against"] == "one position per step"


def test_an_approximate_cache_is_part_of_what_is_lost():
    """Many steps lose nothing, but for what is read as it was computed before."""
    subject = toy_subject(llama().eval(), None)
    subject.length = 8
    sampler = Sampler(LinearSchedule(), Expected(), LeftToRight(), blocks=Blocks(4), steps=8)
    caches = (NoCache(), DualCache(every=1), DualCache())
    plain, fresh, stale = (certified(subject, replace(sampler, cache=cache), 20)[0] for cache in caches)
    assert fresh == pytest.approx(plain, abs=1e-6)
    assert stale > plain + 1e-3


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (replace(SAMPLER, order=Entropy()), "static one"),
        (replace(SAMPLER, count=EntropyBounded()), "static one"),
        (replace(SAMPLER, count=RemaskCapped(0.1)), "static one"),
        (replace(SAMPLER, tokens=TokenSampler(temperature=0)), "without chance"),
    ],
)
def test_samplers_without_a_certificate(sampler, words):
    with pytest.raises(ValueError, match=words):
        Certificate(sampler)


@pytest.mark.parametrize(("name", "value"), [("floor", 0.0), ("confidence", 1.0), ("sequences", 1)])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        Certificate(SAMPLER, **{name: value})
