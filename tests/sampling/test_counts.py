"""Counts against their definitions."""

import itertools
import math

import pytest
import torch

from mdm_lightning.diffusion.schedule import BetaSchedule, CosineSchedule, LinearSchedule, PolynomialSchedule
from mdm_lightning.sampling.adaptive_count import EarlyExit, EntropySum
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import (
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    FixedSizes,
    LargestRemainder,
    PlannedCount,
)
from mdm_lightning.sampling.evidence import Candidates
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import LeftToRight, Random
from mdm_lightning.sampling.plan import NEVER
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sizes import AscendingSizes, DilatedSizes, ShareOfRemaining

from .toys import noise, p_value

PLANNED = [Binomial(), Expected(), LargestRemainder(), FirstHitting(), RemaskCapped(0.2), RemaskRescaled(0.5)]
PLANNED += [AscendingSizes(), DilatedSizes(), DilatedSizes(3), ShareOfRemaining()]
SCHEDULES = [LinearSchedule(), CosineSchedule(), BetaSchedule(0.9, 0.3), BetaSchedule(0.2, 1.0)]


def plan(count: PlannedCount, schedule, masked: list[int], steps: int | list[int], length: int | None = None):
    """Plan for sequences whose first positions are masked, as many as given."""
    generated = torch.arange(length or max(masked)) < torch.tensor(masked)[:, None]
    budget = torch.as_tensor(steps).expand(len(masked))
    return count.plan(schedule, budget, generated, SequenceNoise(0, range(len(masked))))


def quota(*arguments) -> list[list[int]]:
    return plan(*arguments).quota().tolist()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_expected_rounds_the_cumulative_number(schedule):
    for n, steps in itertools.product((1, 5, 32, 33), (1, 3, 8, 40)):
        alpha = [float(schedule.alpha_t(k / steps)) for k in range(steps + 1)]
        revealed = [round(n * a) for a in alpha]
        assert quota(Expected(), schedule, [n], steps)[0] == [b - a for a, b in itertools.pairwise(revealed)]


def test_largest_remainder_gives_lladas_counts_with_the_linear_schedule():
    for n, steps in itertools.product(range(1, 70), (1, 2, 3, 7, 8, 49, 64, 100)):
        llada = [n // steps + (step < n % steps) for step in range(steps)]
        assert quota(LargestRemainder(), LinearSchedule(), [n], steps)[0] == llada


def test_dreams_counts():
    counts = ShareOfRemaining().counts(LinearSchedule(), 8, 32).tolist()
    assert counts == [3, 4, 4, 4, 4, 4, 4, 5]
    assert ShareOfRemaining().counts(LinearSchedule(), 3, 2).tolist() == [0, 0, 2]


def test_expected_gives_lladas_counts_where_the_steps_divide_the_length():
    for n, steps in ((64, 8), (128, 128), (96, 32)):
        assert quota(Expected(), LinearSchedule(), [n], steps)[0] == [n // steps] * steps


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_largest_remainder_is_within_one_of_each_steps_share(schedule):
    for n, steps in itertools.product((1, 5, 33), (1, 3, 8, 40)):
        alpha = [float(schedule.alpha_t(k / steps)) for k in range(steps + 1)]
        counts = quota(LargestRemainder(), schedule, [n], steps)[0]
        assert sum(counts) == n
        assert all(abs(c - n * (b - a)) < 1 for c, (a, b) in zip(counts, itertools.pairwise(alpha), strict=True))


def test_binomial_reveals_a_position_when_alpha_passes_its_time():
    schedule, steps = BetaSchedule(0.7, 0.4), 10
    reveal = plan(Binomial(), schedule, [50, 50], steps).reveal[0]
    times = SequenceNoise(0, range(2)).reveal_times(50)
    alpha = [float(schedule.alpha_t(k / steps)) for k in range(steps)] + [1.0]
    for step, u in zip(reveal.flatten().tolist(), times.flatten().tolist(), strict=True):
        assert alpha[step] <= u < alpha[step + 1]


def test_first_hitting_is_the_limit_of_many_binomial_steps():
    """50 positions in a million steps all have a step of their own with probability 0.999."""
    first = plan(FirstHitting(), LinearSchedule(), [50], 3).reveal[0, 0]
    fine = plan(Binomial(), LinearSchedule(), [50], 1_000_000).reveal[0, 0]
    assert torch.equal(first, fine.argsort().argsort())
    assert first.sort().values.tolist() == list(range(50))


@pytest.mark.parametrize("count", PLANNED)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_position_is_revealed_within_the_steps(count, schedule):
    """In a batch with different numbers of positions and steps; each sequence as it would be alone."""
    masked, steps = [9, 4, 0, 1], [5, 2, 3, 7]
    together = plan(count, schedule, masked, steps, 9)
    for row, (n, k) in enumerate(zip(masked, steps, strict=True)):
        visits = (together.reveal[:, row] != NEVER).sum(0) - (together.remask[:, row] != NEVER).sum(0)
        assert visits.tolist() == [1] * n + [0] * (9 - n)
        last = together.reveal[:, row][together.reveal[:, row] != NEVER]
        assert len(last) == 0 or int(last.max()) < together.lengths[row]
        sizes = count.counts(schedule, 1, n) if isinstance(count, FixedSizes) else None
        assert together.lengths[row] == (k if sizes is None else len(sizes))


@pytest.mark.parametrize("count", [Binomial(), Expected(), LargestRemainder(), FirstHitting()])
def test_left_to_right_keeps_the_number_per_step(count):
    original = plan(count, LinearSchedule(), [9, 4, 7], 5, 12)
    arranged = LeftToRight().arrange(original, noise(3))
    assert torch.equal(arranged.quota(), original.quota())
    for row, n in enumerate((9, 4, 7)):
        steps = arranged.reveal[0, row].tolist()
        assert steps[:n] == sorted(steps[:n])
        assert steps[n:] == [NEVER] * (12 - n)
    assert Random().arrange(original, noise(3)) is original


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 100, 128])
def test_sizes_that_double(n):
    """One step more each time the positions double; without a look at schedule or budget."""
    for schedule, steps in ((LinearSchedule(), 3), (CosineSchedule(), 50)):
        ascending, dilated, base = (
            count.counts(schedule, steps, n).tolist() for count in (AscendingSizes(), DilatedSizes(), DilatedSizes(5))
        )
        assert ascending[:-1] == [2**k for k in range(len(ascending) - 1)]
        assert len(ascending) == n.bit_length()
        assert list(itertools.accumulate(dilated))[:-1] == [2**k for k in range(1, len(dilated))]
        assert len(dilated) == max(1, (n - 1).bit_length())
        assert list(itertools.accumulate(base))[:-1] == [5**k for k in range(1, len(base))]
        assert sum(ascending) == sum(dilated) == sum(base) == n
        assert 0 < ascending[-1] <= 2 ** (len(ascending) - 1)


def valid_rows(rows: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Evidence of sequences with different numbers of masked positions."""
    width = max(map(len, rows))
    padded = [row + [-math.inf] * (width - len(row)) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.tensor(padded, dtype=torch.float64), torch.arange(width) < lengths[:, None]


def test_an_entropy_sum_is_never_passed_unless_by_the_first():
    evidence, valid = valid_rows([[0.1, 0.2, 0.3, 0.0], [0.7, 0.0], [0.0, 0.0, 0.0], [0.5]])
    assert EntropySum(0.5).count(evidence, valid).tolist() == [2, 1, 3, 1]
    assert EntropySum(0.0).count(evidence, valid).tolist() == [1, 1, 3, 1]
    assert (EntropySum(0.5).count(evidence, valid) <= EntropyBounded(0.5).count(evidence, valid)).all()


def test_the_early_exit_reveals_all_at_once():
    """Where the mean difference of logits reaches the threshold, which falls with what is masked; else so many."""
    logits = torch.tensor([[4.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    for masked, threshold in ((1.0, 6.0), (0.5, 3.5), (0.1, 1.5)):
        share = torch.full((3,), masked, dtype=torch.float64)
        none = torch.zeros(3, dtype=torch.int64)
        candidates = Candidates(logits, none, share, none, share, none)
        evidence = EarlyExit(per_step=2, high=6.0, low=1.0).evidence(candidates)
        assert evidence.tolist() == pytest.approx([3 - threshold, 1 - threshold, -threshold])
    evidence, valid = valid_rows([[1.0, -0.5, -0.5], [1.0, -2.0, 0.5], [-1.0]])
    assert EarlyExit(per_step=2).count(evidence, valid).tolist() == [3, 2, 1]


def test_remasking_with_probability_zero_is_binomial():
    for count in (RemaskCapped(0.0), RemaskRescaled(0.0)):
        got, expected = (plan(c, CosineSchedule(), [200] * 5, 20) for c in (count, Binomial()))
        assert torch.equal(got.reveal, expected.reveal)
        assert (got.remask == NEVER).all()


@pytest.mark.parametrize("count", [RemaskCapped(0.3), RemaskRescaled(0.6), RemaskRescaled(1.0)])
def test_remasking_follows_its_markov_chain(count):
    """The joint distribution of a position's states over four steps against ReMDM's transition probabilities, at level
    1e-4."""
    schedule, steps, positions = PolynomialSchedule(1.5), 4, 40_000
    alpha = [float(schedule.alpha_t(k / steps)) for k in range(steps + 1)]
    distribution = {(False,): 1.0}
    for now, following in itertools.pairwise(alpha):
        largest = min(1.0, (1 - following) / now) if now > 0 else 1.0
        sigma = min(count.eta, largest) if isinstance(count, RemaskCapped) else count.eta * largest
        reveal = (following - (1 - sigma) * now) / (1 - now)
        longer = {}
        for path, p in distribution.items():
            to_revealed = 1 - sigma if path[-1] else reveal
            longer[(*path, True)] = p * to_revealed
            longer[(*path, False)] = p * (1 - to_revealed)
        distribution = longer
        assert sum(p for path, p in distribution.items() if path[-1]) == pytest.approx(following)
    made = plan(count, schedule, [400] * (positions // 400), steps)
    revealed = torch.zeros(steps + 1, *made.reveal.shape[1:], dtype=torch.bool)
    for step in range(steps):
        changes = ((made.reveal == step) | (made.remask == step)).any(0)
        revealed[step + 1] = revealed[step] ^ changes
    assert p_value([tuple(path) for path in revealed.flatten(1).T.tolist()], distribution) > 1e-4


def random_evidence(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    evidence = low + (high - low) * torch.rand(200, 12, generator=generator, dtype=torch.float64)
    valid = torch.arange(12) < torch.randint(1, 13, (200, 1), generator=generator)
    return evidence.masked_fill(~valid, -math.inf), valid


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0, math.inf])
def test_the_entropy_bound_against_its_definition(gamma):
    evidence, valid = random_evidence(0, 0.5)
    for row, n, count in zip(evidence, valid.sum(1), EntropyBounded(gamma).count(evidence, valid), strict=True):
        entropies = row[:n].tolist()
        fits = [k for k in range(1, n + 1) if math.fsum(entropies[:k]) - max(entropies[:k]) <= gamma]
        assert count == max(fits)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9, 1.0])
def test_the_threshold_against_its_definition(threshold):
    evidence, valid = random_evidence(0, 1)
    for row, n, count in zip(
        evidence, valid.sum(1), ConfidenceThreshold(threshold).count(evidence, valid), strict=True
    ):
        assert count == max(1, sum(1 for _ in itertools.takewhile(lambda p: p >= threshold, row[:n].tolist())))


def test_blocks_have_equal_numbers_of_masked_positions_and_steps():
    generated = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    parts = Blocks(2).parts(generated, 7)
    assert [part.generated.long().tolist() for part in parts] == [
        [[0, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0] * 6],
        [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0], [0] * 6],
        [[0, 0, 0, 0, 0, 1], [0] * 6, [0] * 6],
    ]
    assert [part.steps.tolist() for part in parts] == [[3, 4, 0], [2, 3, 0], [2, 0, 0]]
    assert [part.steps.tolist() for part in Blocks(2).parts(generated, None)] == [[2, 2, 0], [2, 1, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="at least one for each of 3 blocks, got 2"):
        Blocks(2).parts(generated, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EntropyBounded(-0.1),
        lambda: EntropyBounded(math.nan),
        lambda: ConfidenceThreshold(1.1),
        lambda: ShareOfRemaining(-0.1),
        lambda: RemaskCapped(-0.1),
        lambda: RemaskRescaled(1.1),
        lambda: Blocks(0),
    ],
)
def test_parameters_must_be_in_range(make):
    with pytest.raises(ValueError, match=r"must"):
        make()
