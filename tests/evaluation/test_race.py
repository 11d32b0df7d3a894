"""The race: how often it errs, what it costs, and which instances it looks at."""

import numpy as np
import pytest

from mdm_lightning.evaluation.advice.race import Outcome, Race

LARGE = 10_000


def bernoulli(chances: list[float], seed: int):
    """Candidates that solve an instance of difficulty u where u is below their chance: strongly paired, as with shared
    noise, but for a tenth of independent luck."""
    hardness = np.random.default_rng((seed, 99)).random(4000)

    def measure(number: int, first: int, n: int) -> np.ndarray:
        luck = np.random.default_rng((seed, number)).random(4000)
        own = np.where(luck < 0.1, luck * 10, hardness)
        return (own < chances[number])[first : first + n].astype(float)

    return measure


def outcomes(race: Race, chances: list[float], repetitions: int) -> list[Outcome]:
    return [race.run(len(chances), bernoulli(chances, seed), 0, LARGE) for seed in range(repetitions)]


def test_equals_are_seldom_called_better():
    """At level 0.05 in 80 races of five equal candidates: 13 or more would happen by chance once in 1e4."""
    found = outcomes(Race(instances=100, first=25, confirm=100), [0.5] * 5, 80)
    assert sum(outcome.sure for outcome in found) <= 12
    assert all(outcome.use == 0 for outcome in found if not outcome.sure)


def test_the_best_seldom_leaves_and_is_found():
    """Better by 10 points than four others: it leaves with probability 5 % at most (9 of 50: once in 1e3)."""
    found = outcomes(Race(instances=200, first=50, confirm=200), [0.5, *[0.5] * 3, 0.6], 50)
    assert sum(outcome.runners[4].left for outcome in found) <= 8
    assert np.mean([outcome.use == 4 for outcome in found]) > 0.7


def test_a_gain_is_not_flattered():
    """The winner of many equals looks better in the race than it is, and on fresh instances as it is."""
    found = outcomes(Race(instances=50, first=50, confirm=50), [0.5] * 8, 80)
    raced = [o.runners[o.winner].mean - o.runners[0].mean for o in found if o.confirmation]
    fresh = [o.confirmation.gain for o in found if o.confirmation]
    assert np.mean(raced) > 0.03
    assert abs(np.mean(fresh)) < 5 * np.std(fresh) / len(fresh) ** 0.5


def test_losers_leave_early_and_cost_nothing_more():
    everything = Race(instances=400, first=50, confirm=100)
    for outcome in outcomes(everything, [0.3, 0.2, 0.9, 0.25, 0.1], 5):
        assert [runner.left for runner in outcome.runners] == [True, True, False, True, True]
        assert all(len(runner.scores) == 50 for runner in outcome.runners)
        assert outcome.evaluations == 5 * 50 + 2 * 100
        assert outcome.sure
        assert outcome.use == 2


def test_the_winner_is_confirmed_on_instances_of_its_own():
    seen: dict[int, list[range]] = {0: [], 1: []}

    def measure(number: int, first: int, n: int) -> np.ndarray:
        seen[number].append(range(first, first + n))
        return np.full(n, float(number)) + np.arange(n) % 2

    outcome = Race(instances=80, first=20, confirm=30).run(2, measure, 1000, LARGE)
    assert seen[1] == [range(1000, 1020), range(1080, 1110)]
    assert seen[0] == seen[1]
    assert outcome.confirmation is not None
    assert outcome.confirmation.gain == 1
    assert outcome.confirmation.n == 30


def test_nothing_ahead_of_the_baseline_is_not_confirmed():
    for chances in ([0.9, 0.2, 0.3], [0.5]):
        outcome = Race().run(len(chances), bernoulli(chances, 0), 0, LARGE)
        assert (outcome.winner, outcome.use, outcome.confirmation, outcome.sure) == (0, 0, None, False)


@pytest.mark.parametrize("budget", [400, 500, 900, 5000])
def test_the_budget_is_kept(budget):
    for outcome in outcomes(Race(instances=400, first=25, confirm=50, budget=budget), [0.5, 0.52, 0.54, 0.55], 5):
        assert outcome.evaluations <= budget
        assert all(len(runner.scores) >= 25 for runner in outcome.runners)


def test_few_instances_are_shared_in_proportion():
    outcome = Race(instances=200, confirm=100).run(2, bernoulli([0.1, 0.9], 0), 0, 30)
    assert len(outcome.runners[0].scores) == 20
    assert outcome.confirmation is not None
    assert outcome.confirmation.n == 10
    with pytest.raises(ValueError, match="four instances"):
        Race().run(2, bernoulli([0.1, 0.9], 0), 0, 3)
    for options in ({"instances": 1}, {"level": 0.0}, {"level": 1.0}, {"budget": 0}):
        with pytest.raises(ValueError, match="Race"):
            Race(**options)
