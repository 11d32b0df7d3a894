"""Distributions of the training times."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdm_lightning.diffusion.timesteps import BellTimes, StratifiedTimes, UniformTimes

from .tables import p_value_uniform

BELOW_ONE = 1 - 2.0**-53  # the largest number that torch.rand draws in float64


def uniforms(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(size=st.integers(1, 40), micro_batches=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_one_time_per_stratum_of_the_global_batch(size, micro_batches, seed):
    total = size * micro_batches
    noise = uniforms(total, seed).view(micro_batches, size)
    split = [StratifiedTimes()(noise[i], i, micro_batches) for i in range(micro_batches)]
    strata = (torch.cat(split) * total).floor().long().sort().values
    assert strata.tolist() == list(range(total))


@given(size=st.integers(1, 40), micro_batches=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_each_micro_batch_covers_the_interval(size, micro_batches, seed):
    for i in range(micro_batches):
        t = StratifiedTimes()(uniforms(size, seed), i, micro_batches)
        assert (t * size).floor().long().sort().values.tolist() == list(range(size))


BELLS = [
    BellTimes(),
    BellTimes(mean=0.2, std=0.05, uniform_share=0.01),
    BellTimes(mean=1.0, std=3.0),
    BellTimes(uniform_share=1),
]


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes(), *BELLS])
@pytest.mark.parametrize("edge", [0.0, BELOW_ONE])
def test_never_one(times, edge):
    """At t = 1 nothing is masked and the weight diverges."""
    for size in (1, 3, 7, 512, 1000):
        for micro_batches in (1, 3, 64):
            for i in (0, micro_batches - 1):
                t = times(torch.full((size,), edge, dtype=torch.float64), i, micro_batches)
                assert t.dtype == torch.float64
                assert ((t >= 0) & (t < 1)).all()


def test_pure_functions():
    noise = uniforms(8, 0)
    for times in (UniformTimes(), StratifiedTimes(), BellTimes()):
        before = noise.clone()
        first = times(noise, 1, 4)
        assert torch.equal(first, times(noise, 1, 4))
        assert torch.equal(noise, before)


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
def test_times_of_a_random_sequence_are_uniform(times):
    """One sequence picked at random from each of 5,000 global batches of 4 x 3. Fails by chance once in 1e6."""
    generator = torch.Generator().manual_seed(1)
    picks = []
    for batch in range(5000):
        micro_batch, place = divmod(int(torch.randint(12, (), generator=generator)), 3)
        picks.append(times(uniforms(3, batch), micro_batch, 4)[place])
    assert p_value_uniform(torch.stack(picks)) > 1e-6


@pytest.mark.parametrize("times", [UniformTimes(), StratifiedTimes()])
def test_stratification_lowers_the_variance_of_a_mean(times):
    """The mean of t^2 over a global batch of 64: variance of at most (2/64)^2 / 4 / 64 when stratified."""
    means = []
    for batch in range(400):
        t = torch.cat([times(uniforms(16, 4 * batch + i), i, 4) for i in range(4)])
        means.append((t**2).mean())
    mean, variance = torch.stack(means).mean(), torch.stack(means).var()
    assert float(mean) == pytest.approx(1 / 3, abs=0.02)
    independent = (1 / 5 - 1 / 9) / 64
    if isinstance(times, StratifiedTimes):
        assert variance < (2 / 64) ** 2 / 4 / 64
    else:
        assert variance == pytest.approx(independent, rel=0.5)


@pytest.mark.parametrize("times", BELLS)
def test_weights_undo_the_bell(times):
    """The weighted mean of any function over times is its mean over [0, 1): here with one in each of 2^18 strata."""
    t = times(torch.full((2**18,), 0.5, dtype=torch.float64), 0, 1)
    for function, mean in ((torch.ones_like, 1.0), (torch.square, 1 / 3), (lambda t: t.sqrt(), 2 / 3)):
        assert float((times.weight(t) * function(t)).mean()) == pytest.approx(mean, abs=1e-3)
    assert times.weight(t).max() <= 1 / times.uniform_share


@pytest.mark.parametrize("times", BELLS[:2])
def test_more_times_lie_in_the_bell(times):
    t = times(torch.full((2**14,), 0.5, dtype=torch.float64), 0, 1)
    within = ((t - times.mean).abs() < times.std).double().mean()
    expected = times.uniform_share * 2 * times.std + (1 - times.uniform_share) * 0.6827
    assert float(within) == pytest.approx(expected, abs=0.01)


def test_without_weights_the_middle_counts_more():
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    assert BellTimes(unbiased=False).weight(t).tolist() == [1, 1]
    first, middle = BellTimes().weight(t)
    assert first > 1 > middle


@pytest.mark.parametrize("wrong", [{"std": 0}, {"mean": 1.5}, {"uniform_share": 0}, {"std": float("nan")}])
def test_bad_bells_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BellTimes(**wrong)
