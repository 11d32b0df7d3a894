"""Path profiles: what they say of the reference walk's own steps is exact, the rest interpolates by the book."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from mdm_lightning.data.source import PreparedData
from mdm_lightning.diffusion.profile.counts import schedule_of_counts
from mdm_lightning.diffusion.profile.path_profile import PathProfile, stretched
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.advice.paths import Paths
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.profile import revealed_counts
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Entropy, Margin, MaxProbability, PredictedOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import walk
from tests.sampling.toys import TinyDenoiser

from .corpora import text_subject

LENGTH, TOKENS = 6, 3
GREEDY = TokenSampler(temperature=0.0)


def tiny_subject(maskable: torch.Tensor | None = None, size: int = 12) -> Subject:
    """Random sequences, and a denoiser that is not exact; some positions may be given."""
    subject = text_subject(["abc"] * 4, ["abc"] * 4)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, TOKENS, (size, LENGTH)))
    masks = torch.ones_like(tokens, dtype=torch.bool) if maskable is None else maskable

    class Sequences:
        def __len__(self) -> int:
            return size

        def __getitems__(self, indices):
            return {"tokens": tokens[list(indices)], "maskable": masks[list(indices)]}

    data = dataclasses.replace(subject.data, validation=Sequences())

    def prepare() -> PreparedData:
        return data

    denoiser = TinyDenoiser(TOKENS, LENGTH, seed=3)
    return dataclasses.replace(subject, denoiser=denoiser, prepare=prepare, length=LENGTH)


def sampler(order: PredictedOrder, tokens: TokenSampler, **options) -> Sampler:
    return Sampler(LinearSchedule(), Expected(), order, tokens, **options)


@pytest.mark.parametrize("knots", [3, 25])
@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("order", [Entropy(), Margin(), MaxProbability()])
def test_the_reference_walks_own_steps_are_exact(order, block, knots):
    """Their cost is the sampler's own likelihood of each sequence."""
    subject, measured = tiny_subject(), sampler(order, TokenSampler(temperature=0.7), blocks=Blocks(block))
    profile = Paths(knots=knots, sequences=None, batch_size=5).measure(subject, measured).profiles["responses"]
    own = np.diff([*profile.anchors, profile.length])
    blocks = LENGTH // (block or LENGTH)
    plan = dataclasses.replace(measured, schedule=schedule_of_counts(own), steps=len(own) * blocks)
    tokens = subject.data.validation.__getitems__(range(12))["tokens"]
    walked = walk(
        plan, subject.denoiser, tokens, torch.ones_like(tokens, dtype=torch.bool), SequenceNoise(0, range(12))
    )
    assert profile.length == (block or LENGTH)
    assert list(profile.anchors) == revealed_counts(profile.length, knots)
    costs = profile.likelihood.per_row(own).reshape(12, blocks)
    np.testing.assert_allclose(costs.sum(1), walked.cost.numpy(), rtol=1e-9)
    assert profile.likelihood.costs.score(own) == pytest.approx(costs.mean())
    np.testing.assert_allclose(profile.likelihood.per_sequence(own), costs.mean(1))
    if block is None:
        drawn = profile.predicted_accuracy(own, greedy=False)
        assert drawn.value == pytest.approx(np.exp(-costs).mean())
        assert drawn.stderr == pytest.approx(np.exp(-costs).std(ddof=1) / 12**0.5)


@pytest.mark.parametrize("order", [Entropy(), Confidence()])
def test_greedy_accuracy_of_the_reference_walk_is_exact(order):
    """The share of the model's own outputs, and of given sequences, that the very walk reproduces."""
    subject = tiny_subject()
    greedy = sampler(order, GREEDY)
    profiles = Paths(knots=25, sequences=None).measure(subject, greedy).profiles
    own = np.ones(LENGTH, dtype=int)
    assert profiles["own"].predicted_accuracy(own, greedy=True).value == 1
    plan = dataclasses.replace(greedy, steps=LENGTH)
    tokens = subject.data.validation.__getitems__(range(12))["tokens"]
    walked = walk(
        plan, subject.denoiser, tokens, torch.ones_like(tokens, dtype=torch.bool), SequenceNoise(0, range(12))
    )
    expected = float(walked.greedy.all(1).double().mean())
    assert profiles["responses"].predicted_accuracy(own, greedy=True).value == pytest.approx(expected)


def test_all_at_once_needs_no_walk():
    """The first anchor is the empty canvas: what any first step costs is exact, for both kinds of cost."""
    subject = tiny_subject()
    profile = Paths(sequences=None).measure(subject, sampler(Entropy(), TokenSampler())).profiles["responses"]
    whole = profile.paths[:, 0, LENGTH]
    assert profile.likelihood.costs.score([LENGTH]) == pytest.approx(-whole.mean())
    assert profile.solved.costs.score([LENGTH]) == pytest.approx(-np.log(np.exp(whole).mean()))


def test_costs_in_between_by_plain_loops():
    """In cost per masked position and shares of what is masked, linear in the number revealed."""
    generator = np.random.default_rng(0)
    n, anchors = 9, np.array([0, 4, 7])
    paths = -np.cumsum(generator.exponential(size=(5, 3, n + 1)), axis=2)
    paths[:, :, 0] = 0
    profile = PathProfile(anchors, paths, np.ones((5, 3)))
    mean = -paths.mean(0)

    def at(anchor: int, share: float) -> float:
        masked = n - anchors[anchor]
        return float(np.interp(share * masked, np.arange(masked + 1), mean[anchor, : masked + 1])) / masked

    for r, m in itertools.product(range(n), range(1, n + 1)):
        if r + m > n:
            continue
        share = m / (n - r)
        before = max(k for k in range(3) if anchors[k] <= r)
        after = min((k for k in range(3) if anchors[k] >= r), default=2)
        weight = 0 if before == after else (r - anchors[before]) / (anchors[after] - anchors[before])
        expected = (n - r) * ((1 - weight) * at(before, share) + weight * at(after, share))
        assert profile.likelihood.costs.costs[r, r + m] == pytest.approx(expected)


def test_sequences_of_other_lengths_are_stretched():
    """Two lengths whose positions cost the same: so does every share of them. A given prompt is not revealed."""
    assert stretched(np.array([0.0, -1, -3]), 2).tolist() == [0, -1, -3]
    assert stretched(np.array([0.0, -1, -2]), 4).tolist() == [0, -1, -2, -3, -4]
    assert stretched(np.array([0.0, -1, -2, -3, -4]), 2).tolist() == [0, -1, -2]
    masks = torch.ones(12, LENGTH, dtype=torch.bool)
    masks[::2, :2] = False
    profile = Paths(sequences=None).measure(tiny_subject(masks), sampler(Entropy(), TokenSampler())).profiles["own"]
    assert profile.length == LENGTH
    assert np.isfinite(profile.likelihood.costs.score([2, 4]))


def test_independent_positions_cost_nothing_in_blocks_and_others_do():
    """The denoiser agrees with its own greedy guesses where positions do not depend on each other."""

    class Independent(TinyDenoiser):
        def forward(self, tokens, alpha=None, padding=None, **options):
            return super().forward(torch.full_like(tokens, self.mask_id), alpha, padding, **options)

    subject = tiny_subject()
    few = Paths(sequences=8, own_blocks=4, block_knots=LENGTH)
    dependent = few.measure(subject, sampler(Entropy(), GREEDY))
    subject.denoiser = Independent(TOKENS, LENGTH, seed=3)
    independent = few.measure(subject, sampler(Entropy(), GREEDY))
    assert independent.profiles["own blocks"].likelihood.costs.score([LENGTH]) == pytest.approx(0, abs=1e-12)
    assert dependent.profiles["own blocks"].likelihood.costs.score([LENGTH]) > 0.01
    assert dependent.profiles["own blocks"].likelihood.costs.score([1] * LENGTH) == pytest.approx(0, abs=1e-6)
    assert len(dependent.profiles["own blocks"].paths) == 4
    assert dependent.passes > independent.sequences * 3 * LENGTH


def test_batches_do_not_matter():
    chosen = sampler(Entropy(), TokenSampler())
    first, second = (
        Paths(sequences=None, own_blocks=4, batch_size=size).measure(tiny_subject(), chosen) for size in (3, 12)
    )
    for name in first.profiles:
        np.testing.assert_allclose(first.profiles[name].paths, second.profiles[name].paths, atol=1e-6)


def test_bad_profiles():
    paths, solid = np.zeros((4, 2, 6)), np.ones((4, 2))
    for anchors, of, shares in (
        ([1, 2], paths, solid),
        ([0, 0], paths, solid),
        ([0, 5], paths, solid),
        ([0], paths, solid),
        ([0, 1], paths[:1], solid[:1]),
        ([0, 1], paths, solid[:2]),
    ):
        with pytest.raises(ValueError, match="PathProfile"):
            PathProfile(np.array(anchors), of, shares)
    with pytest.raises(UserError, match="four validation sequences"):
        Paths().measure(tiny_subject(size=3), sampler(Entropy(), GREEDY))
    for bad in ({"knots": 1}, {"own_blocks": 3}):
        with pytest.raises(ValueError, match=f"Paths: {next(iter(bad))}"):
            Paths(**bad)
