"""What was chosen on one half of the sequences and scored on the other is not flattered, whatever was measured."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from mdm_lightning.diffusion.profile.anchored_costs import AnchoredCosts, SolvedCosts
from mdm_lightning.diffusion.profile.cross_fitting import CountCosts, cross_fitted
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.profile.order_table import OrderTable
from mdm_lightning.sampling.count import Expected

N, STEPS, SEQUENCES, REPEATS = 8, 3, 20, 200


def loss_profile(rng: np.random.Generator) -> LossProfile:
    return LossProfile.from_scores(range(N), 2 + rng.normal(size=(SEQUENCES, N)), N)


def order_table(rng: np.random.Generator) -> OrderTable:
    return OrderTable(range(N), 2 + rng.normal(size=(SEQUENCES, N, N)))


def path_curves(rng: np.random.Generator) -> AnchoredCosts:
    return AnchoredCosts(np.arange(N), np.cumsum(2 + rng.normal(size=(SEQUENCES, N, N + 1)), axis=2))


def test_what_cannot_be_is_infinite_and_no_warning():
    """A path through a token that the sampler never draws."""
    curves = np.ones((SEQUENCES, 1, N + 1)).cumsum(axis=2)
    curves[3, 0, 2:] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = AnchoredCosts(np.array([0]), curves).cross_fitted_cost(lambda costs: costs.best_counts(STEPS))
    assert found.value == math.inf
    assert math.isnan(found.stderr)


def blocks(rng: np.random.Generator) -> AnchoredCosts:
    """One to three blocks of each sequence, all alike: they are worth no more than one."""
    curves = order_table(rng).curves
    owners = np.repeat(np.arange(SEQUENCES), rng.integers(1, 4, size=SEQUENCES))
    return AnchoredCosts(np.arange(N), curves[owners], owners)


@pytest.mark.parametrize("measure", [loss_profile, order_table, blocks])
def test_what_was_chosen_is_scored_by_others(measure: Callable[[np.random.Generator], CountCosts]):
    """Where all counts are equally good, the best on the same 20 sequences seem better by many standard errors; those
    chosen by the other half do not, and their error is that of the estimate, over 200 measurements."""
    rng, own, others = np.random.default_rng(2), [], []
    for _ in range(REPEATS):
        measured = measure(rng)
        best = measured.costs.best_counts(STEPS)
        own.append(measured.costs.score(best) - measured.costs.score([1] * N))
        others.append(measured.cross_fitted_gap(lambda costs: costs.best_counts(STEPS)))
    values, errors = np.array(others).T
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 5 * spread / math.sqrt(REPEATS)
    assert np.mean(own) < -0.5
    assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.25)


def test_the_best_beta_of_independent_steps_is_scored_by_others():
    """Every schedule has the gap zero; the best of the same sequences pretends to have less."""
    rng, own, others = np.random.default_rng(5), [], []
    for _ in range(60):
        profile = loss_profile(rng)
        own.append(profile.gap(profile.best_beta(STEPS), STEPS).value)
        others.append(
            cross_fitted(
                profile,
                lambda half: half.best_beta(STEPS),
                lambda half, schedule: half.gap_per_sequence(schedule, STEPS),
            ).value
        )
    assert np.mean(own) < -0.5
    assert abs(np.mean(others)) < 5 * np.std(others) / math.sqrt(60)


@pytest.mark.parametrize("choose", ["counts", "beta"])
def test_the_share_that_is_solved_is_scored_by_others(choose):
    """Sequences that come through every step of equal size alike: the chosen counts are no better than others."""
    rng, flattered, fair = np.random.default_rng(1), [], []
    solved = 0.7  # of the sequences, at every position of every state
    for _ in range(REPEATS):
        right = rng.random((80, N, N)) < solved
        curves = np.zeros((80, N, N + 1))
        curves[:, :, 1:] = np.where(right, 0.0, 4.0).cumsum(2)
        measured = SolvedCosts(np.arange(N), curves)
        chosen = {
            "counts": lambda costs: costs.best_counts(STEPS),
            "beta": lambda costs: Expected().counts(costs.best_beta(STEPS, Expected().rounding), STEPS, N),
        }[choose]
        flattered.append(measured.costs.score(chosen(measured.costs)))
        fair.append(measured.cross_fitted_cost(chosen).value)
    truth = -N * math.log(solved + (1 - solved) * math.exp(-4))
    assert np.mean(flattered) < truth - 0.08
    # The logarithm of a mean over 40 is lower than that of the expectation: by Var / 2 of the mean.
    assert np.mean(fair) == pytest.approx(truth, abs=0.15)
    assert np.mean(fair) - np.mean(flattered) > 0.1


def test_shares_of_single_sequences_add_up():
    """The delta method: the mean is the cost, the standard error the spread of the cost over fresh sequences."""
    rng, values, errors = np.random.default_rng(3), [], []
    counts = [3, 4, 1]
    for _ in range(REPEATS):
        measured = SolvedCosts(np.arange(N), np.cumsum(rng.exponential(0.3, size=(100, N, N + 1)), axis=2))
        estimate = measured.score(counts)
        assert estimate.value == pytest.approx(measured.costs.score(counts))
        values.append(estimate.value)
        errors.append(estimate.stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


@pytest.mark.parametrize("measure", [loss_profile, order_table, path_curves])
def test_the_mean_over_sequences_is_the_cost(measure):
    measured = measure(np.random.default_rng(0))
    for counts in ([8], [1] * 8, [2, 0, 5, 1]):
        assert measured.per_sequence(counts).mean() == pytest.approx(measured.costs.score(counts))
        half = measured.part(slice(1, None, 2)).per_sequence(counts)
        assert half == pytest.approx(measured.per_sequence(counts)[1::2])
    with pytest.raises(ValueError, match="sum to the length 8"):
        measured.per_sequence([3])


@pytest.mark.parametrize("kind", [AnchoredCosts, SolvedCosts])
def test_blocks_stay_with_their_sequence(kind):
    """In either half, and in the error: two blocks of each sequence count as one."""
    curves, owners = path_curves(np.random.default_rng(0)).curves, np.arange(SEQUENCES) // 2
    measured = kind(np.arange(N), curves, owners)
    for counts in ([8], [1] * 8, [2, 0, 5, 1]):
        each = measured.per_sequence(counts)
        assert each == pytest.approx(measured.per_row(counts).reshape(-1, 2).mean(1))
        assert each.mean() == pytest.approx(measured.costs.score(counts))
    half = measured.part(slice(1, None, 2))
    assert half.owners is not None
    assert half.owners.tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]
    assert np.array_equal(half.curves, curves[np.isin(owners, half.owners)])
    with pytest.raises(ValueError, match="two sequences"):
        kind(np.arange(N), curves, np.zeros(SEQUENCES, dtype=int))
    with pytest.raises(ValueError, match="an owner for each"):
        kind(np.arange(N), curves, owners[1:])


def test_solved_by_nobody_costs_infinitely_much():
    curves = np.zeros((4, 2, 3))
    curves[:, 1, 1:] = np.inf
    measured = SolvedCosts(np.arange(2), curves)
    assert measured.costs.score([1, 1]) == math.inf
    assert measured.per_sequence([2]).tolist() == [0] * 4
    assert np.isinf(measured.per_sequence([1, 1])).all()


def test_too_few_to_choose_on():
    with pytest.raises(ValueError, match="two sequences"):
        OrderTable(range(2), np.ones((3, 2, 2))).cross_fitted_gap(lambda costs: costs.best_counts(1))
    with pytest.raises(ValueError, match="single sequences are not known"):
        LossProfile(2, [0, 1], [2.0, 1.0]).cross_fitted_gap(lambda costs: costs.best_counts(1))
