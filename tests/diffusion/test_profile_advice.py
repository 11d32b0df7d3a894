"""The best schedules by the loss profile: against brute force, other optimisers and every familiar schedule."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize

from mdm_lightning.diffusion.profile.beta_search import best_beta
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.profile.step_costs import StepCosts
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, SquaredSineSchedule
from mdm_lightning.sampling.count import Expected, LargestRemainder

from .profiles import random_profile, smooth_profile
from .tables import SCHEDULES

EXPECTED = Expected().rounding


def compositions(n: int, steps: int) -> list[tuple[int, ...]]:
    return [c for c in itertools.product(range(n + 1), repeat=steps) if sum(c) == n]


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_dynamic_programme_is_brute_force(n, steps):
    """Also for profiles that rise and fall, and with more steps than positions."""
    for seed in range(3):
        profile = random_profile(n, seed)
        counts = profile.best_counts(steps)
        assert counts.shape == (steps,)
        assert counts.sum() == n
        best = min(profile.nelbo_of_counts(c).value for c in compositions(n, steps))
        assert profile.nelbo_of_counts(counts).value == pytest.approx(best)


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50])
def test_dynamic_programme_beats_every_schedule(steps):
    for profile in (smooth_profile(50, 13), random_profile(50, seed=0)):
        best = profile.nelbo_of_counts(profile.best_counts(steps)).value
        for schedule in SCHEDULES:
            assert best <= profile.nelbo_of_counts(Expected().counts(schedule, steps, 50)).value + 1e-9
            assert best <= profile.nelbo(schedule, steps).value + 1e-9, "a mean over counts"


def test_useless_steps_stay_empty():
    assert StepCosts.per_position(np.ones(6)).best_counts(4).tolist() == [6, 0, 0, 0]
    assert StepCosts.per_position(np.array([1.0, 0, 0, 0])).best_counts(3).tolist() == [1, 3, 0]
    assert StepCosts.per_position(np.array([3.0, 2, 1])).best_counts(5).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("n", [1, 2, 13, 128])
@pytest.mark.parametrize("steps", [1, 3, 16])
def test_optimal_schedule_reproduces_the_counts(n, steps):
    profile = smooth_profile(n, min(n, 9)) if n > 1 else LossProfile(1, [0], [2.0])
    schedule = profile.optimal_schedule(steps)
    assert Expected().counts(schedule, steps, n).tolist() == profile.best_counts(steps).tolist()


@pytest.mark.parametrize("steps", [2, 5, 16, 64])
def test_best_beta_is_the_best(steps):
    """Against differential evolution on the same box with the exact prediction, and against every familiar schedule."""
    profile = smooth_profile(64, 17)

    def value(x: np.ndarray) -> float:
        return profile.nelbo(BetaSchedule(*np.exp(x).tolist()), steps).value

    box = [(math.log(0.05), math.log(20))] * 2
    found = optimize.differential_evolution(value, box, seed=0, maxiter=20, popsize=8, polish=True)
    best = profile.nelbo(profile.best_beta(steps), steps).value
    assert best <= found.fun + 1e-5 * profile.gap(LinearSchedule(), steps).value
    for schedule in (LinearSchedule(), SquaredSineSchedule(), BetaSchedule(0.9, 0.3), BetaSchedule(1.0, 0.2)):
        assert best <= profile.nelbo(schedule, steps).value + 1e-9


def test_best_beta_stays_in_its_box_and_prefers_linear():
    profile = smooth_profile(40, 9)
    schedule = profile.best_beta(6, lowest=0.4, highest=0.6)
    assert 0.4 - 1e-12 <= schedule.alpha <= 0.6 + 1e-12
    assert 0.4 - 1e-12 <= schedule.beta <= 0.6 + 1e-12
    assert profile.best_beta(1) == BetaSchedule(0.5, 0.5), "with one step all are equal"


@pytest.mark.parametrize("steps", [4, 16, 40])
def test_best_beta_of_counts_is_better_at_its_own_game(steps):
    profile = smooth_profile(40, 9)

    def value(schedule: BetaSchedule) -> float:
        return profile.nelbo_of_counts(Expected().counts(schedule, steps, 40)).value

    best = value(profile.best_beta_of_counts(steps, EXPECTED))
    grid = np.geomspace(0.1, 3, 12)
    others = [BetaSchedule(float(a), float(b)) for a in grid for b in grid]
    assert best <= min(map(value, [*others, profile.best_beta(steps), BetaSchedule(0.5, 0.5)])) + 1e-9


@pytest.mark.parametrize("seed", range(30))
def test_best_beta_of_counts_is_no_worse_than_the_other_best_beta(seed):
    """Although the counts' score has plateaus, in which a search may get lost."""
    profile, steps = random_profile(60, seed), 12
    found, other = (
        profile.nelbo_of_counts(Expected().counts(schedule, steps, 60)).value
        for schedule in (profile.best_beta_of_counts(steps, EXPECTED), profile.best_beta(steps))
    )
    assert found <= other + 1e-9


def test_as_many_steps_as_positions_are_best_spent_one_by_one():
    """The linear schedule then has no gap in counts, unlike the independent step, which the plain search minds."""
    profile = smooth_profile(32, 9).monotone()
    best = profile.best_beta_of_counts(32, EXPECTED)
    assert profile.gap_of_counts(Expected().counts(best, 32, 32)).value == pytest.approx(0)
    assert profile.gap(LinearSchedule(), 32).value > 0.1


def test_the_search_scores_many_schedules_at_once():
    """Which is what makes it fast: a call for the grid, and one for each refinement."""
    asked = []

    def scores(parameters):
        asked.append(len(parameters))
        return np.abs(np.log(parameters) - np.log([0.9, 0.3])).sum(1)

    found = best_beta(scores, 0.05, 20)
    assert (found.alpha, found.beta) == pytest.approx((0.9, 0.3), rel=2e-3)
    assert len(asked) <= 8
    assert sum(asked) < 1500


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_must_be_positive(steps):
    profile = smooth_profile(10, 4)
    for advice in (profile.best_beta, profile.best_counts, profile.optimal_schedule):
        with pytest.raises(ValueError, match="steps"):
            advice(steps)
    with pytest.raises(ValueError, match="steps"):
        profile.best_beta_of_counts(steps, EXPECTED)
    with pytest.raises(ValueError, match="steps"):
        profile.nelbo(LinearSchedule(), steps)


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_any_costs_of_steps_are_minimised(n, steps):
    """Costs that depend on r and m in any way, infinite ones among them."""
    for seed in range(3):
        generator = np.random.default_rng(seed)
        table = generator.exponential(size=(n, n + 1))
        table[generator.random(table.shape) < 0.1] = np.inf
        costs = StepCosts(table)
        all_counts = np.array(compositions(n, steps))
        counts = costs.best_counts(steps)
        assert (len(counts), counts.sum()) == (steps, n)
        assert costs.score(counts) == pytest.approx(costs.scores(all_counts).min())
        plain = sum(table[sum(counts[:k]), sum(counts[: k + 1])] for k in range(steps) if counts[k])
        assert costs.score(counts) == pytest.approx(plain)


@pytest.mark.parametrize("count", [Expected(), LargestRemainder()])
def test_roundings_of_many_schedules_are_those_of_one(count):
    costs = StepCosts(np.random.default_rng(0).exponential(size=(23, 24)))
    best = costs.best_beta(5, count.rounding)
    grid = [BetaSchedule(float(a), float(b)) for a in np.geomspace(0.1, 3, 12) for b in np.geomspace(0.1, 3, 12)]
    assert costs.score(count.counts(best, 5, 23)) <= min(costs.score(count.counts(s, 5, 23)) for s in grid) + 1e-9


def test_bad_costs():
    for bad in (np.ones((2, 2)), np.full((2, 3), np.nan), np.full((1, 2), -np.inf), np.ones((0, 1))):
        with pytest.raises(ValueError, match="StepCosts"):
            StepCosts(bad)
    for counts in ([1, 1], [4, -1]):
        with pytest.raises(ValueError, match="sum to the length 3"):
            StepCosts(np.ones((3, 4))).score(counts)
