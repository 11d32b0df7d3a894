import numpy as np
import pytest
import torch
from scipy import stats

from mdm_lightning.sampling.noise import SequenceNoise


def test_a_sequence_has_its_noise_in_every_batch():
    alone = SequenceNoise(3, [5]).reveal_times(8)
    for indices in ([5, 9], [9, 5], range(4, 12)):
        row = list(indices).index(5)
        assert torch.equal(SequenceNoise(3, indices).reveal_times(8)[row], alone[0])


def test_the_noise_of_a_position_does_not_depend_on_the_length():
    noise = SequenceNoise(0, range(3))
    assert torch.equal(noise.token_quantiles(5), noise.token_quantiles(50)[:, :5])


def test_seeds_sequences_kinds_and_visits_are_independent():
    # Twelve correlations of 20,000 pairs: each exceeds 0.035 with probability 7e-7.
    n = 20_000
    streams = [
        *(SequenceNoise(0, [0]).reveal_times(n, visit)[0] for visit in range(3)),
        *(SequenceNoise(0, [0]).token_quantiles(n, visit)[0] for visit in range(2)),
        SequenceNoise(0, [0]).remask_times(n)[0],
        SequenceNoise(0, [1]).reveal_times(n)[0],
        SequenceNoise(1, [0]).reveal_times(n)[0],
        SequenceNoise(2**64 - 1, [2**64 - 1]).reveal_times(n)[0],
    ]
    correlation = np.corrcoef(torch.stack(streams).numpy())
    assert np.abs(correlation - np.eye(len(streams))).max() < 0.035


def test_the_noise_is_uniform():
    # Kolmogorov-Smirnov at level 1e-4.
    values = SequenceNoise(7, range(100)).reveal_times(200)
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-4
    assert values.min() >= 0
    assert values.max() < 1
    assert values.dtype == torch.float64


@pytest.mark.parametrize(("seed", "indices"), [(-1, [0]), (2**64, [0]), (0, [-1])])
def test_seeds_and_indices_must_be_in_range(seed, indices):
    with pytest.raises(ValueError, match="SequenceNoise"):
        SequenceNoise(seed, indices)
