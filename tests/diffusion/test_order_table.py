"""The table of a static order: optima against brute force, and interpolation."""

import itertools

import numpy as np
import pytest

from mdm_lightning.diffusion.profile.order_table import OrderTable
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.sampling.count import Expected, LargestRemainder


def random_table(sequences: int, n: int, seed: int = 0) -> OrderTable:
    return OrderTable(range(n), random_losses(sequences, n, seed))


def random_losses(sequences: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=(sequences, n, n))


def compositions(n: int, most: int) -> list[list[int]]:
    """All ways to reveal n positions in at most so many steps."""
    cuts = (c for k in range(min(most, n)) for c in itertools.combinations(range(1, n), k))
    return [np.diff([0, *c, n]).tolist() for c in cuts]


@pytest.mark.parametrize("steps", range(1, 8))
def test_no_counts_cost_less_than_the_best(steps):
    table = random_table(5, 7, seed=steps)
    best = table.costs.best_counts(steps)
    brute = min(table.score(counts).value for counts in compositions(7, steps))
    assert table.score(best).value == pytest.approx(brute, rel=1e-12)
    assert table.costs.score(best) == pytest.approx(brute, rel=1e-12)
    for count in (Expected(), LargestRemainder()):
        schedule = table.costs.best_beta(steps, count.rounding)
        linear = table.score(count.counts(LinearSchedule(), steps, 7)).value
        assert brute - 1e-12 <= table.score(count.counts(schedule, steps, 7)).value <= linear + 1e-12


def test_scores_are_sums_over_steps():
    table, losses = random_table(4, 6), random_losses(4, 6)
    cost = table.per_sequence([2, 0, 3, 1])
    expected = losses[:, 0, :2].sum(1) + losses[:, 2, 2:5].sum(1) + losses[:, 5, 5]
    assert cost == pytest.approx(expected)
    estimate = table.score([2, 0, 3, 1])
    assert estimate.value == pytest.approx(cost.mean())
    assert estimate.stderr == pytest.approx(cost.std(ddof=1) / 2)
    singly = np.einsum("saa->s", losses)
    assert table.gap([2, 0, 3, 1]).value == pytest.approx((cost - singly).mean())
    assert table.gap([1] * 6).value == table.gap([1] * 6).stderr == 0


def test_between_anchors_a_loss_that_is_linear_in_r_is_met_exactly():
    """C(r, m) = m h_r with h linear between the anchors; of each sequence."""
    n, anchors = 20, [0, 4, 13, 19]
    heights = np.random.default_rng(1).uniform(1, 3, size=(3, len(anchors)))
    table = OrderTable(anchors, np.repeat(heights[:, :, None], n, axis=2))
    h = np.stack([np.interp(range(n), anchors, row) for row in heights])
    for counts in ([20], [3, 7, 10], [1] * 20, [5, 5, 5, 5], [13, 6, 1]):
        revealed = np.cumsum(counts) - counts
        assert table.per_sequence(counts) == pytest.approx((h[:, revealed] * counts).sum(1))
        assert table.costs.score(counts) == pytest.approx(table.score(counts).value)


def test_at_anchors_nothing_is_approximated():
    whole = random_table(4, 12)
    some = OrderTable([0, 5, 11], random_losses(4, 12)[:, [0, 5, 11]])
    for counts in ([5, 6, 1], [5, 7], [12]):
        assert some.per_sequence(counts) == pytest.approx(whole.per_sequence(counts))


@pytest.mark.parametrize(
    ("anchors", "shape", "message"),
    [
        ([0, 1], (1, 2, 2), "two sequences or more"),
        ([0, 2], (3, 2, 4), "anchors must increase from 0 to n - 1 = 3"),
        ([1, 3], (3, 2, 4), "anchors must increase"),
        ([0, 2, 2, 3], (3, 4, 4), "anchors must increase"),
        ([0, 3], (3, 3, 4), "anchors must increase"),
    ],
)
def test_what_is_no_table_is_refused(anchors, shape, message):
    with pytest.raises(ValueError, match=message):
        OrderTable(anchors, np.ones(shape))


def test_losses_must_be_finite_where_they_are_read():
    losses = np.ones((2, 2, 2))
    losses[0, 1, 0] = np.nan  # revealed
    OrderTable([0, 1], losses)
    losses[0, 0, 1] = np.inf
    with pytest.raises(ValueError, match="losses must be finite"):
        OrderTable([0, 1], losses)


def test_counts_must_sum_to_the_length():
    with pytest.raises(ValueError, match="sum to the length 4, got 3"):
        random_table(2, 4).score([1, 2])
