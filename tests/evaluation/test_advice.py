"""Advice on schedules: what the file says is what the profile found, and what the sampler then does."""

import json

import numpy as np
import pytest
import torch

from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import LinearSchedule, SineSchedule, TabulatedSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.predicted import Advise, advise, advised_schedule, predicted_gap
from mdm_lightning.evaluation.base import NotApplicable, Row, Subject
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import (
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    LargestRemainder,
    RevealCount,
)
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Random, RevealOrder
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sampler import Sampler
from tests.diffusion.profiles import smooth_profile
from tests.diffusion.tables import uniform_denoiser

from .test_likelihood import distribution_subject
from .test_profile_evaluation import Kept

BUDGETS = (1, 2, 3)


def sampler(count: RevealCount | None = None, order: RevealOrder | None = None, **options) -> Sampler:
    return Sampler(SineSchedule(), count or Binomial(), order or Random(), **options)


def run(count: RevealCount, order: RevealOrder | None = None) -> tuple[Subject, Kept, list[Row]]:
    subject, outputs = distribution_subject(4), Kept()
    subject.outputs, subject.fingerprint = outputs, "abc"
    return subject, outputs, list(Advise(Profile(sequences=None), sampler(count, order), BUDGETS)(subject))


@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_the_advice_file_holds_the_advice(tmp_path, count):
    """Read back for every budget: the schedules that the measured profile says are best, to the last bit."""
    _, outputs, _ = run(count)
    (tmp_path / "advice.json").write_text(outputs.files["advice.json"])
    (tmp_path / "profile.json").write_text(outputs.files["profile.json"])
    profile = LossProfile.load(tmp_path / "profile.json", "abc")
    for steps in BUDGETS:
        best = (
            profile.best_beta(steps)
            if isinstance(count, Binomial)
            else profile.best_beta_of_counts(steps, count.rounding)
        )
        assert advised_schedule(str(tmp_path / "advice.json"), steps) == best
        optimum = advised_schedule(str(tmp_path / "advice.json"), steps, "optimal")
        assert isinstance(optimum, TabulatedSchedule)
        assert list(optimum.alphas) == list(profile.optimal_schedule(steps).alphas)


@pytest.mark.parametrize("length", [5, 40])
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_the_sampler_reveals_the_optimal_counts(length, steps):
    """With the optimal schedule and the count Expected, at every step exactly as many positions as were advised."""
    profile = smooth_profile(length, 5)
    schedule = advise(profile, sampler(Expected()), steps).optimum
    denoiser = uniform_denoiser(length, 2) if length == 5 else None
    if denoiser is None:
        everywhere = torch.ones(3, length, dtype=torch.bool)
        plan = Expected().plan(schedule, torch.full((3,), steps), everywhere, SequenceNoise(0, range(3)))
        revealed = plan.quota().tolist()
    else:
        canvas = torch.full((3, length), denoiser.mask_id)
        samples = Sampler(schedule, Expected(), Random(), steps=steps)(denoiser, canvas, SequenceNoise(0, range(3)))
        revealed = [row.bincount(minlength=steps).tolist() for row in samples.revealed_at]
    assert revealed == [profile.best_counts(steps).tolist()] * 3


@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_rows_and_text(count):
    """The gaps are those of the profile; none of the schedules is better than the best, no counts than the optimal."""
    subject, outputs, rows = run(count)
    assert [row.metric for row in rows] == ["predicted_gap"] * 4 * len(BUDGETS)
    for steps in BUDGETS:
        gaps = {row.settings["schedule"]: row.value for row in rows if row.settings["steps"] == steps}
        best, *others = gaps
        assert others == ["Linear", "SquaredSine", "optimal counts"]
        assert gaps[best] <= min(gaps["Linear"], gaps["SquaredSine"]) + 1e-12
        if not isinstance(count, Binomial):
            assert gaps["optimal counts"] <= gaps[best] + 1e-12
    assert all(row.n == len(subject.data.validation) and row.better == "lower" for row in rows)
    assert "schedule=advised advice=advice.json sampler.steps=1" in outputs.texts["advice"]
    assert "theorem" not in outputs.texts["advice"]
    assert "theorem" in run(count, Confidence())[1].texts["advice"]
    assert outputs.figures == ["advised grids", "predicted landscape"]


@pytest.mark.parametrize("steps", [2, 8, 31, 40])
@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_the_best_beta_is_no_worse_than_what_it_is_compared_with(count, steps):
    best, *rivals = advise(smooth_profile(40, 9), sampler(count), steps).gaps.values()
    assert all(best.value <= rival.value + 1e-9 for rival in rivals)


def counted(profile: LossProfile, counts: list[int]) -> float:
    """sum of n_k h_{r_k} less the sum of all h_r."""
    revealed = np.cumsum([0, *counts])[:-1]
    return sum(n * profile.per_count[r] for n, r in zip(counts, revealed, strict=True) if n) - profile.per_count.sum()


def test_predicted_gaps():
    profile = smooth_profile(12, 12)
    for steps in (1, 4, 7):
        by_hand = [round(12 * float(SineSchedule().alpha_t(torch.tensor(k / steps)))) for k in range(steps + 1)]
        gap = predicted_gap(profile, sampler(Expected()), steps)
        assert gap is not None
        assert gap.value == pytest.approx(counted(profile, np.diff(by_hand).tolist()))
        assert predicted_gap(profile, sampler(), steps) == profile.gap(SineSchedule(), steps)
    llada = predicted_gap(profile, Sampler(LinearSchedule(), LargestRemainder(), Random()), 5)
    assert llada is not None
    assert llada.value == pytest.approx(counted(profile, [3, 3, 2, 2, 2]))


def test_one_position_per_pass_costs_nothing():
    profile = smooth_profile(12, 12)
    for one_by_one, steps in ((sampler(FirstHitting()), 3), (sampler(FirstHitting()), None)):
        gap = predicted_gap(profile, one_by_one, steps)
        assert gap is not None
        assert gap.value == pytest.approx(0, abs=1e-9)
    # Without a budget: a step for each position.
    assert predicted_gap(profile, sampler(), None) == profile.gap(SineSchedule(), 12)


@pytest.mark.parametrize(
    "unpredictable",
    [
        sampler(EntropyBounded()),
        sampler(ConfidenceThreshold()),
        sampler(RemaskCapped(0.1)),
        sampler(RemaskRescaled(0.5)),
        sampler(blocks=Blocks(4)),
    ],
    ids=str,
)
def test_a_profile_says_nothing_of_some_samplers(unpredictable):
    assert predicted_gap(smooth_profile(12, 12), unpredictable, 4) is None
    with pytest.raises(NotApplicable, match="neither adaptive nor remasking counts, nor blocks"):
        next(iter(Advise(Profile(), unpredictable, [4])(distribution_subject(1))))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read advice="),
        ("no json", "is no advice.json"),
        ("[1, 2]", "is no advice.json"),
        ('{"version": 1, "length": 4}', "is no advice.json"),
        (json.dumps({"4": {}, "8": {}}), r"is for 4, 8 steps, not for 16: ask for evaluation.steps=\[16\]"),
    ],
)
def test_files_that_are_no_advice(tmp_path, content, words):
    if content is not None:
        (tmp_path / "advice.json").write_text(content)
    with pytest.raises(UserError, match=words):
        advised_schedule(str(tmp_path / "advice.json"), 16)


def test_advice_must_be_named():
    with pytest.raises(UserError, match="needs advice=FILE"):
        advised_schedule(None, 8)


@pytest.mark.parametrize("steps", [[], [0], [4, -1]])
def test_budgets_must_be_positive(steps):
    with pytest.raises(ValueError, match="steps must be positive"):
        Advise(Profile(), sampler(), steps)
