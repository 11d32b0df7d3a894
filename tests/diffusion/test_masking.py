"""Distributions of the forward process."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion import masking
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking, StepMasking, mask_counts
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, PolynomialSchedule, SineSchedule
from mdm_lightning.diffusion.timesteps import BellTimes, StratifiedTimes, UniformTimes

from .tables import SCHEDULES, all_masks, name_of, z_score

MASK = 11


@dataclass(frozen=True)
class FixedTime(UniformTimes):
    t: float = 0.5

    def __call__(self, uniform, micro_batch, micro_batches):
        return torch.full_like(uniform, self.t)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(b: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens 0..10, and which of them may be masked (about two thirds)."""
    g = generator(seed)
    return torch.randint(MASK, (b, length), generator=g), torch.rand(b, length, generator=g) < 2 / 3


PROCESSES = [
    *(IndependentMasking(schedule, UniformTimes()) for schedule in SCHEDULES),
    IndependentMasking(LinearSchedule(), StratifiedTimes()),
    CountMasking(UniformTimes()),
    CountMasking(StratifiedTimes()),
    StepMasking(BetaSchedule(0.9, 0.3), UniformTimes(), 7),
    StepMasking(LinearSchedule(), StratifiedTimes(), 2),
]

all_processes = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: repr(p).split(" object")[0])


@all_processes
@given(b=st.integers(0, 5), length=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_bookkeeping(process, b, length, seed):
    tokens, maskable = batch(b, length, seed)
    before = tokens.clone()
    out = process(tokens, maskable, MASK, generator(seed))
    masked = out.tokens == MASK
    assert torch.equal(tokens, before)
    assert not (masked & ~maskable).any()
    assert torch.equal(out.tokens[~masked], tokens[~masked])
    assert out.rows.tolist() == masked.flatten().nonzero().flatten().tolist()
    assert torch.equal(out.targets, tokens.flatten()[out.rows])
    assert torch.equal(out.lengths, maskable.sum(1))
    assert out.alpha.shape == (b,)
    assert out.weight.shape == out.rows.shape
    assert out.alpha.dtype == out.weight.dtype == torch.float32
    assert ((out.alpha >= 0) & (out.alpha <= 1)).all()
    assert (out.weight >= 0).all()
    assert torch.isfinite(out.weight).all()


@all_processes
def test_noise_comes_from_the_generator_alone(process):
    tokens, maskable = batch(8, 16)
    torch.manual_seed(0)
    first = process(tokens, maskable, MASK, generator(3), 1, 4)
    torch.manual_seed(1)
    again = process(tokens, maskable, MASK, generator(3), 1, 4)
    other = process(tokens, maskable, MASK, generator(4), 1, 4)
    assert all(x is y is None or torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first.tokens, other.tokens)


@all_processes
def test_nothing_maskable(process):
    tokens, _ = batch(3, 5)
    out = process(tokens, torch.zeros(3, 5, dtype=torch.bool), MASK, generator())
    assert torch.equal(out.tokens, tokens)
    assert out.rows.shape == out.targets.shape == (0,)
    assert torch.isfinite(out.weight).all()
    assert torch.isfinite(out.alpha).all()
    assert out.lengths.tolist() == [0, 0, 0]


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_frequency_of_masks(schedule, t):
    """20,000 positions, binomial test; fails by chance once in 1e6 for each case."""
    tokens, everything = torch.zeros(200, 100, dtype=torch.int64), torch.ones(200, 100, dtype=torch.bool)
    out = IndependentMasking(schedule, FixedTime(t))(tokens, everything, MASK, generator())
    expected = float(schedule.masked_t(t))
    assert stats.binomtest(len(out.rows), 20_000, expected).pvalue > 1e-6
    torch.testing.assert_close(out.alpha, torch.full((200,), 1 - expected))
    torch.testing.assert_close(out.weight, torch.full((len(out.rows),), float(schedule.weight_t(t))))


def test_positions_are_masked_independently():
    """All eight patterns of three positions against the product distribution, chi-squared; by chance once in 1e6."""
    tokens = torch.zeros(20_000, 3, dtype=torch.int64)
    schedule = SineSchedule()
    process = IndependentMasking(schedule, FixedTime(0.3))
    out = process(tokens, torch.ones_like(tokens, dtype=torch.bool), MASK, generator())
    pattern = ((out.tokens == MASK).long() * torch.tensor([4, 2, 1])).sum(1)
    rate = float(schedule.masked_t(0.3))
    expected = [math.prod(rate if m else 1 - rate for m in p) for p in itertools.product((0, 1), repeat=3)]
    counts = pattern.bincount(minlength=8)
    assert stats.chisquare(counts, [20_000 * p for p in expected]).pvalue > 1e-6


def test_all_masked_at_the_start():
    tokens, maskable = batch(4, 20)
    beta, start = BetaSchedule(0.9, 0.3), FixedTime(0.0)
    for process in (IndependentMasking(beta, start), CountMasking(start), StepMasking(beta, start, 5)):
        out = process(tokens, maskable, MASK, generator())
        assert torch.equal(out.tokens == MASK, maskable)


@given(b=st.integers(1, 5), length=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_count_masking_masks_exactly_k(b, length, seed):
    tokens, maskable = batch(b, length, seed)
    out = CountMasking(StratifiedTimes())(tokens, maskable, MASK, generator(seed))
    n, k = maskable.sum(1), (out.tokens == MASK).sum(1)
    assert ((k >= 1) | (n == 0)).all()
    some = n > 0
    torch.testing.assert_close(out.weight, (n / k)[out.rows // length])
    torch.testing.assert_close(out.alpha[some], (1 - k / n)[some])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 49, 1000, 1023])
def test_counts_cover_one_to_n_and_nothing_else(n):
    tokens = torch.zeros(1, n, dtype=torch.int64)
    everything = torch.ones(1, n, dtype=torch.bool)
    for t, count in ((0.0, n), (1 - 2.0**-53, 1), (1 - 0.5 / n, 1), (0.5 / n, n)):
        assert len(CountMasking(FixedTime(t))(tokens, everything, MASK, generator()).rows) == count


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
def test_counts_are_uniform(times):
    """k of n = 6, chi-squared; by chance once in 1e6. Stratified counts are more even than independent ones."""
    tokens = torch.zeros(12_000, 6, dtype=torch.int64)
    out = CountMasking(times)(tokens, torch.ones_like(tokens, dtype=torch.bool), MASK, generator())
    counts = (out.tokens == MASK).sum(1).bincount(minlength=7)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-6


def test_every_subset_is_equally_likely():
    """The six subsets of two among four maskable positions of five, chi-squared; by chance once in 1e6."""
    tokens = torch.zeros(12_000, 5, dtype=torch.int64)
    maskable = torch.tensor([True, True, False, True, True]).expand(12_000, 5)
    out = CountMasking(FixedTime(0.5))(tokens, maskable, MASK, generator())
    pattern = ((out.tokens == MASK).long() * torch.tensor([1, 2, 4, 8, 16])).sum(1)
    counts = pattern.bincount(minlength=32)
    assert sorted(counts.nonzero().flatten().tolist()) == [3, 9, 10, 17, 18, 24]
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-6


def test_micro_batches_share_the_strata():
    """Four micro-batches of five mask one count in each stratum of the global batch of twenty."""
    tokens = torch.zeros(5, 20, dtype=torch.int64)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    process = CountMasking(StratifiedTimes())
    counts = [(process(tokens, everything, MASK, generator(i), i, 4).tokens == MASK).sum(1) for i in range(4)]
    assert torch.cat(counts).sort().values.tolist() == list(range(1, 21))


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
@pytest.mark.parametrize("place", [0, 2])
def test_every_place_in_the_batch_gets_every_count(times, place):
    """k of n = 4 at one place of a batch of four, 600 batches, chi-squared; by chance once in 1e6.

    Validation shows a sequence at the same place of the same batch each time. A count tied to the place would make the
    estimate of a fixed set of sequences depend on their order and on the batch size.
    """
    tokens = torch.zeros(4, 4, dtype=torch.int64)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    counts = torch.zeros(5)
    for seed in range(600):
        out = CountMasking(times)(tokens, everything, MASK, generator(seed))
        counts[(out.tokens[place] == MASK).sum()] += 1
    assert stats.chisquare(counts[1:]).pvalue > 1e-6


# A distribution of three tokens with unequal probabilities, under which more context helps.
LAW = {(0, 0, 0): 0.4, (0, 1, 1): 0.3, (1, 1, 0): 0.2, (1, 0, 1): 0.1}


def conditional(x: tuple[int, ...], i: int, kept: set[int]) -> float:
    """p(x_i | x on the kept positions), by summation over the distribution."""
    fits = [(y, p) for y, p in LAW.items() if all(y[j] == x[j] for j in kept)]
    return sum(p for y, p in fits if y[i] == x[i]) / sum(p for _, p in fits)


def step_nelbo(x: tuple[int, ...], alphas: list[float]) -> float:
    """The K-step NELBO in nats, from its definition: over the steps, and over the subsets that are kept."""
    total = 0.0
    for now, then in itertools.pairwise(alphas):
        for masked in all_masks(len(x)).tolist():
            kept = {i for i, m in enumerate(masked) if not m}
            chance = now ** len(kept) * (1 - now) ** (len(x) - len(kept))
            nats = -sum(math.log(conditional(x, i, kept)) for i, m in enumerate(masked) if m)
            total += (then - now) / (1 - now) * chance * nats
    return total


def grid_of(schedule, steps: int) -> list[float]:
    return [float(schedule.alpha_t(torch.tensor(k / steps, dtype=torch.float64))) for k in range(steps + 1)]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_step_masking_rounds_the_kept_share_down_to_the_grid(schedule, steps):
    """A uniform share then falls on alpha_k with probability alpha_{k+1} - alpha_k, and counts 1 / (1 - alpha_k)."""
    tokens, everything = torch.zeros(1, 400, dtype=torch.int64), torch.ones(1, 400, dtype=torch.bool)
    grid = grid_of(schedule, steps)
    for share in [0.0, 0.03, 0.31, 0.5, 0.77, *grid[:-1]]:
        out = StepMasking(schedule, FixedTime(share), steps)(tokens, everything, MASK, generator())
        expected = max(alpha for alpha in grid[:-1] if alpha <= share)
        assert float(out.alpha) == pytest.approx(expected, abs=1e-7)
        if len(out.rows):
            assert out.weight.tolist() == pytest.approx([1 / (1 - expected)] * len(out.rows), rel=1e-6)
        assert stats.binomtest(len(out.rows), 400, 1 - expected).pvalue > 1e-7


def test_step_masking_of_a_schedule_that_masks_next_to_nothing(monkeypatch):
    """Beta(0.05, 30) leaves 3.8e-12 masked after a quarter of the time, of which 1 - alpha has four digits."""
    schedule = BetaSchedule(0.05, 30.0)
    certain = torch.full((1,), 1 - 2**-53, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    monkeypatch.setattr(masking, "_draw", lambda *arguments: certain)
    everything = torch.ones(1, 4, dtype=torch.bool)
    out = StepMasking(schedule, UniformTimes(), 4)(torch.zeros(1, 4, dtype=torch.int64), everything, MASK, generator())
    assert out.weight.tolist() == pytest.approx([1 / float(schedule.masked_t(0.25))] * 4, rel=1e-6)


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
@pytest.mark.parametrize(
    ("schedule", "steps"), [(LinearSchedule(), 2), (BetaSchedule(0.9, 0.3), 3), (SineSchedule(), 1)]
)
def test_step_masking_is_unbiased_for_the_k_step_nelbo(schedule, steps, times):
    """40,000 draws for each sequence against enumeration: five standard errors, by chance once in 1e6 each."""
    denoiser = ExactDenoiser(list(LAW), list(LAW.values()))
    everything = torch.ones(40_000, 3, dtype=torch.bool)
    for x in LAW:
        tokens = torch.tensor(x).expand(40_000, 3)
        batch = StepMasking(schedule, times, steps)(tokens, everything, denoiser.mask_id, generator(1))
        estimate = nelbo(denoiser, batch).per_sequence
        if steps == 1:  # nothing is random
            torch.testing.assert_close(estimate, torch.full_like(estimate, step_nelbo(x, [0, 1])))
        else:
            assert abs(z_score(estimate, step_nelbo(x, grid_of(schedule, steps)))) < 5


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_the_k_step_nelbo_is_the_riemann_sum_of_the_profile(schedule, steps):
    profile = LossProfile.from_distribution(list(LAW), list(LAW.values()))
    mean = sum(p * step_nelbo(x, grid_of(schedule, steps)) for x, p in LAW.items())
    assert profile.nelbo(schedule, steps).value == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("schedule", [LinearSchedule(), SineSchedule(), BetaSchedule(0.9, 0.3)])
def test_infinitely_many_steps_are_continuous_time(schedule):
    """From equal noise the same masks and weights as the linear schedule's, whatever the schedule of the steps."""
    tokens, maskable = batch(64, 50)
    many = StepMasking(schedule, StratifiedTimes(), 2**22)(tokens, maskable, MASK, generator(5))
    continuous = IndependentMasking(LinearSchedule(), StratifiedTimes())(tokens, maskable, MASK, generator(5))
    assert torch.equal(many.tokens, continuous.tokens)
    torch.testing.assert_close(many.alpha, continuous.alpha, rtol=0, atol=1e-5)
    torch.testing.assert_close(many.weight, continuous.weight, rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps", [0, -1, 2.5, None])
def test_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        StepMasking(LinearSchedule(), UniformTimes(), steps)


@given(b=st.integers(1, 5), length=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_masks_of_growing_counts_are_nested(b, length, seed):
    """Exactly ``count`` maskable positions, each set inside the next."""
    tokens, maskable = batch(b, length, seed)
    noise = torch.rand(b, length, generator=generator(seed), dtype=torch.float64)
    before = torch.zeros(b, length, dtype=torch.bool)
    for wanted in range(length + 1):
        count = maskable.sum(1).clamp(max=wanted)
        out = mask_counts(tokens, maskable, MASK, count, noise)
        masked = out.tokens == MASK
        assert torch.equal(masked.sum(1), count)
        assert not (before & ~masked).any()
        assert not (masked & ~maskable).any()
        before = masked


@pytest.mark.parametrize(
    "process",
    [
        IndependentMasking(PolynomialSchedule(2.0), BellTimes()),
        CountMasking(BellTimes(mean=0.3)),
        StepMasking(LinearSchedule(), BellTimes(std=0.4), steps=3),
    ],
    ids=lambda process: type(process).__name__,
)
def test_times_that_are_not_uniform_leave_the_expected_loss_alone(process):
    """Each position's expected weight is one: a model that loses one nat per masked token has its length as NELBO."""
    tokens = torch.zeros(40_000, 8, dtype=torch.long)
    batch = process(tokens, torch.ones_like(tokens, dtype=torch.bool), 9, torch.Generator().manual_seed(0))
    assert float(batch.weight.double().sum() / tokens.numel()) == pytest.approx(1, abs=0.01)
