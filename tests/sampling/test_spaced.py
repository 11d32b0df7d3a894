"""Orders of positions far from each other: permutations, gaps, and chance."""

import itertools

import pytest
import torch
from scipy import stats

from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Expected, FirstHitting, ProbabilityThreshold
from mdm_lightning.sampling.order import LeftToRight, Random, StaticOrder
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.sizes import DilatedSizes
from mdm_lightning.sampling.spaced import Dilated, MinimumDistance, Spaced, spread

from .toys import TinyDenoiser, noise

ORDERS: list[StaticOrder] = [Random(), LeftToRight(), Dilated(), Spaced(), MinimumDistance(), MinimumDistance(3)]


def gaps(places: list[int], n: int) -> list[int]:
    """Round the circle, from each of some places to the next."""
    ordered = sorted(places)
    return [b - a for a, b in itertools.pairwise([*ordered, ordered[0] + n])]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_order_is_a_permutation_of_what_is_generated(order):
    """For every number of positions up to 70, wherever they lie; none is not an error."""
    generator = torch.Generator().manual_seed(0)
    for n in range(71):
        generated = torch.zeros(3, 80, dtype=torch.bool)
        generated[0, :n] = generated[1, 80 - n :] = True
        generated[2, torch.randperm(80, generator=generator)[:n]] = True
        for ranks, there in zip(order.ranks(generated, noise(3, seed=n)), generated, strict=True):
            assert sorted(ranks[there].tolist()) == list(range(n))


@pytest.mark.parametrize("n", [*range(1, 66), 100, 127, 128, 129, 1000])
def test_the_first_positions_are_spread_evenly(n):
    """After 1, 2, 4, ... positions all gaps are n / 2^j, rounded down or up; in between at most twice that."""
    places = spread(n).tolist()
    assert sorted(places) == list(range(n))
    for first in range(1, n + 1):
        level = 2 ** (first.bit_length() - 1)
        assert max(gaps(places[:first], n)) <= -(-n // level)
        if first == level:
            assert min(gaps(places[:first], n)) >= n // level


def test_the_rotation_is_uniform_and_nothing_else_is_random():
    """Chi-square at level 1e-4; the order itself is the dilated one, round a circle."""
    n, sequences = 11, 22_000
    generated = torch.ones(sequences, n, dtype=torch.bool)
    ranks = Spaced().ranks(generated, noise(sequences))
    begin = ranks.argmin(dim=1)
    assert stats.chisquare(torch.bincount(begin, minlength=n).numpy()).pvalue > 1e-4
    plain = Dilated().ranks(generated[:1], noise(1))[0]
    for row in range(50):
        assert ranks[row].roll(-int(begin[row])).tolist() == plain.tolist()


def test_a_sequence_keeps_its_rotation_in_any_batch():
    generated = torch.ones(4, 12, dtype=torch.bool)
    together = Spaced().ranks(generated, noise(4))
    assert Spaced().ranks(generated[:2], noise(2)).tolist() == together[:2].tolist()


@pytest.mark.parametrize("distance", [1, 2, 5, 8])
def test_the_least_distance_falls_only_when_no_position_is_left(distance):
    generated = torch.ones(20, 50, dtype=torch.bool)
    for ranks in MinimumDistance(distance).ranks(generated, noise(20)):
        places, least = ranks.argsort().tolist(), distance
        for k, place in enumerate(places):
            if k == 0:
                continue
            while min(abs(place - other) for other in places[:k]) < least:
                beyond = [p for p in places[k:] if min(abs(p - other) for other in places[:k]) >= least]
                assert not beyond
                least //= 2
            assert least >= 1


def test_minimum_distance_begins_anywhere():
    """Uniformly: chi-square at level 1e-4."""
    ranks = MinimumDistance().ranks(torch.ones(5000, 10, dtype=torch.bool), noise(5000))
    assert stats.chisquare(torch.bincount(ranks.argmin(dim=1), minlength=10).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("length", [None, 4])
def test_static_orders_are_followed_with_and_without_a_plan(order, length):
    """One position at a time, in the order's places of each block of four; around a prompt."""
    denoiser = TinyDenoiser(length=10)
    canvas = torch.full((3, 10), denoiser.mask_id)
    canvas[0, 2] = canvas[1, 0] = canvas[1, 9] = 1
    generated = canvas == denoiser.mask_id
    blocks = Blocks(length)
    expected = torch.full((3, 10), -1)
    before = torch.zeros(3, 1, dtype=torch.int64)
    for part in blocks.parts(generated, None):
        expected = torch.where(part.generated, order.ranks(part.generated, noise(3)) + before, expected)
        before = before + part.steps[:, None]
    for count in (FirstHitting(), ProbabilityThreshold(1.0)):
        sampler = Sampler(LinearSchedule(), count, order, blocks=blocks)
        assert sampler(denoiser, canvas, noise(3)).revealed_at.tolist() == expected.tolist()


def test_dilated_groups_are_those_of_the_paper():
    """Luxembourg et al., 2025: step t of a block of B reveals the positions k with k - 1 divisible by B / a^t that are
    left; for a = 2 and powers of two."""
    denoiser = TinyDenoiser(length=64)
    canvas = torch.full((1, 64), denoiser.mask_id)
    sampler = Sampler(LinearSchedule(), DilatedSizes(), Dilated(), blocks=Blocks(16))
    revealed_at = sampler(denoiser, canvas, noise(1)).revealed_at[0].tolist()
    steps, expected = 4, {}
    for block in range(4):
        for step in range(1, steps + 1):
            for k in range(1, 17):
                if (k - 1) % (16 // 2**step) == 0:
                    expected.setdefault(16 * block + k - 1, block * steps + step - 1)
    assert revealed_at == [expected[position] for position in range(64)]


def test_far_apart_in_a_step_means_far_apart():
    """Eight steps of eight of 64 positions: neighbours in a step are eight places apart, in random order mostly not."""
    sampler = Sampler(LinearSchedule(), Expected(), Spaced(), steps=8)
    denoiser = TinyDenoiser(length=64)
    at = sampler(denoiser, torch.full((5, 64), denoiser.mask_id), noise(5)).revealed_at
    for row in at:
        first = (row == 0).nonzero().squeeze(1).tolist()
        assert gaps(first, 64) == [8] * 8


@pytest.mark.parametrize("distance", [0, -1])
def test_distances_must_be_positive(distance):
    with pytest.raises(ValueError, match="distance must be at least 1"):
        MinimumDistance(distance)
