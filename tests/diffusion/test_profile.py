"""The loss profile: predictions against enumeration and simulation, errors, the best schedules, files."""

import itertools
import json
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import optimize, stats

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    LinearSchedule,
    SineSchedule,
    SquaredSineSchedule,
)
from mdm_lightning.errors import UserError

from .profiles import random_profile, smooth_profile
from .tables import SCHEDULES, all_masks, name_of


class LearnedDenoiser:
    """A random network on a random distribution, all of whose cross-entropies are tabulated: n = 4, d = 3."""

    n, d = 4, 3

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = DiT(self.d, self.n, hidden_size=16, depth=2, heads=2, cond_dim=8).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        rng = np.random.default_rng(0)
        self.data = torch.from_numpy(rng.integers(0, self.d, (6, self.n)))
        self.probabilities = rng.dirichlet(np.ones(6))
        self.masks = all_masks(self.n)
        with torch.no_grad():
            inputs = torch.where(self.masks[None], network.mask_id, self.data[:, None])
            hidden = network(inputs.flatten(0, 1))
            logits = network.head(hidden.flatten(0, 1)).double().unflatten(0, (6, len(self.masks), self.n))
        log_p = logits.log_softmax(-1).gather(-1, self.data[:, None, :, None].expand(-1, len(self.masks), -1, 1))
        self.nats = -log_p.squeeze(-1).numpy()  # (sequence, mask, position)

    def profile(self) -> LossProfile:
        """h_r by its definition: the mean over sequences, subsets of r revealed positions and masked positions."""
        values = []
        for revealed in range(self.n):
            chosen = [i for i, mask in enumerate(self.masks.tolist()) if sum(mask) == self.n - revealed]
            per_sequence = [self.nats[:, i][:, self.masks[i].numpy()].mean(1) for i in chosen]
            values.append(self.probabilities @ np.mean(per_sequence, axis=0))
        return LossProfile(self.n, range(self.n), values)

    def simulate(self, alphas: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """Monte-Carlo NELBOs of K steps: position i is paid for at the step in which its u_i falls."""
        rng = np.random.default_rng(seed)
        sequence = rng.choice(len(self.data), draws, p=self.probabilities)
        step = np.searchsorted(alphas, rng.random((draws, self.n)), side="right") - 1
        total = np.zeros(draws)
        for k in range(len(alphas) - 1):
            masked = step >= k
            row = (masked * 2 ** np.arange(self.n)[::-1]).sum(1)
            total += (self.nats[sequence, row] * (step == k)).sum(1)
        return total


@pytest.fixture(scope="module")
def learned() -> LearnedDenoiser:
    return LearnedDenoiser()


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("schedule", [LinearSchedule(), BetaSchedule(0.9, 0.3)], ids=name_of)
def test_prediction_is_the_mean_of_simulations_of_a_learned_denoiser(learned, schedule, steps):
    """At level 1e-4 per case."""
    alphas = np.append(schedule.alpha_t(torch.arange(steps).double() / steps).numpy(), 1.0)
    totals = learned.simulate(alphas, draws=40_000, seed=steps)
    error = totals.std() / math.sqrt(len(totals))
    assert abs(totals.mean() - learned.profile().nelbo(schedule, steps).value) < 3.9 * error


def test_nelbo_of_many_steps_tends_to_the_continuous_one(learned):
    profile = learned.profile()
    limit = profile.nelbo(LinearSchedule()).value
    assert limit == pytest.approx(profile.values.sum())
    distance = [abs(profile.nelbo(LinearSchedule(), steps).value - limit) for steps in (10, 100, 1000)]
    assert distance[0] > 9 * distance[1] > 80 * distance[2]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_against_sums_over_all_masks(schedule, steps):
    """h(alpha) and NELBO_K written as expectations over which of the other positions are revealed."""
    profile, n = random_profile(5, seed=0), 5
    alphas = [0.0, *schedule.alpha_t(torch.arange(1, steps).double() / steps).tolist(), 1.0]
    total = 0.0
    for now, then in itertools.pairwise(alphas):
        h = 0.0
        for others in itertools.product((0, 1), repeat=n - 1):
            h += math.prod(now if kept else 1 - now for kept in others) * profile.values[sum(others)]
        assert profile.h(now) == pytest.approx(h, rel=1e-12)
        total += n * (then - now) * h
    assert profile.nelbo(schedule, steps).value == pytest.approx(total, rel=1e-12)
    gap = profile.gap(schedule, steps).value
    assert gap == pytest.approx(total - profile.values.sum(), abs=1e-12)


def test_large_n_is_accurate():
    """A profile that is linear in r has h(alpha) = h_0 + slope (n - 1) alpha, for n = 1024 too."""
    n = 1024
    profile = LossProfile(n, [0, n - 1], [7.0, 1.0])
    alpha = np.linspace(0, 1, 33)
    assert profile.h(alpha) == pytest.approx(7 - 6 * alpha, rel=1e-12)
    assert profile.nelbo(LinearSchedule()).value == pytest.approx(4 * n)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_independent_step_is_a_mixture_of_counts(n):
    """NELBO_K is the mean of the count form over multinomial counts."""
    profile, alphas = random_profile(n, seed=1), np.array([0, 0.2, 0.7, 1])
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, np.diff(alphas), size=4000)
    values = np.array([profile.nelbo_of_counts(counts).value for counts in draws])
    expected = n * sum((b - a) * profile.h(a) for a, b in itertools.pairwise(alphas))
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values)) + 1e-9


@pytest.mark.parametrize("d", [2, 3])
def test_profile_of_a_distribution_by_plain_loops(d):
    """The mean conditional entropy over subsets and positions; its sum is the entropy of the distribution."""
    rng, n = np.random.default_rng(d), 4
    sequences = sorted({tuple(x) for x in rng.integers(0, d, (7, n)).tolist()})
    p = rng.dirichlet(np.ones(len(sequences)))
    values = []
    for r in range(n):
        entropies = []
        for kept in itertools.combinations(range(n), r):
            for i in set(range(n)) - set(kept):
                groups: dict[tuple, dict[int, float]] = {}
                for x, weight in zip(sequences, p, strict=True):
                    group = groups.setdefault(tuple(x[j] for j in kept), {})
                    group[x[i]] = group.get(x[i], 0) + weight
                entropies.append(sum(w * math.log(sum(g.values()) / w) for g in groups.values() for w in g.values()))
        values.append(np.mean(entropies))
    profile = LossProfile.from_distribution(sequences, p.tolist())
    assert profile.values == pytest.approx(values, abs=1e-12)
    assert profile.nelbo(LinearSchedule()).value == pytest.approx(stats.entropy(p))
    assert (np.diff(profile.values) <= 1e-12).all()


def test_errors_propagate():
    """The standard error is that of the prediction made for each sequence alone, knots being measured together."""
    rng, n, counts = np.random.default_rng(0), 30, [0, 3, 10, 29]
    scores = rng.normal(size=(50, 1)) + 0.2 * rng.normal(size=(50, 4)) + [4, 3, 2, 1]
    profile, schedule = LossProfile.from_scores(counts, scores, n), SineSchedule()
    alone = [LossProfile(n, counts, row) for row in scores]
    for estimate, values in (
        (profile.nelbo(schedule, 4), [p.nelbo(schedule, 4).value for p in alone]),
        (profile.gap(schedule, 4), [p.gap(schedule, 4).value for p in alone]),
        (profile.nelbo(schedule), [p.nelbo(schedule).value for p in alone]),
        (profile.nelbo_of_counts([10, 0, 20]), [p.nelbo_of_counts([10, 0, 20]).value for p in alone]),
        (profile.gap_of_counts([10, 0, 20]), [p.gap_of_counts([10, 0, 20]).value for p in alone]),
    ):
        assert estimate.value == pytest.approx(np.mean(values))
        assert estimate.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(50))
    assert profile.gap(schedule, 4).stderr < profile.nelbo(schedule, 4).stderr / 3, "what knots share cancels"


def test_between_knots_it_is_linear():
    profile = LossProfile(7, [0, 2, 6], [5.0, 3.0, 1.0])
    assert profile.per_count == pytest.approx([5, 4, 3, 2.5, 2, 1.5, 1])
    assert profile.nelbo_of_counts([2, 2, 3]).value == pytest.approx(2 * 5 + 2 * 3 + 3 * 2)


@pytest.mark.parametrize("seed", range(5))
def test_monotone_is_the_nearest_such_profile(seed):
    """Least squares, weighted by inverse variances, over non-increasing values, by a general optimiser."""
    rng, n = np.random.default_rng(seed), 6
    spread = rng.uniform(0.5, 2, n)
    scores = rng.normal(size=(30, n)) * spread + np.linspace(1, 0, n)
    profile = LossProfile.from_scores(range(n), scores, n)
    smooth, weights = profile.monotone(), 1 / profile.covariance.diagonal()
    assert (np.diff(smooth.values) <= 1e-12).all()
    found = optimize.minimize(
        lambda x: (weights * (x - profile.values) ** 2).sum(),
        np.sort(profile.values)[::-1],
        constraints={"type": "ineq", "fun": lambda x: -np.diff(x)},
        options={"ftol": 1e-14},
    )
    assert smooth.values == pytest.approx(found.x, abs=1e-5)
    assert smooth.monotone().values == pytest.approx(smooth.values)


def test_monotone_pools_errors_too():
    scores = np.random.default_rng(0).normal(loc=[3.0, 1.0, 1.4], size=(40, 3))
    profile = LossProfile.from_scores([0, 4, 9], scores, 10)
    smooth = profile.monotone()
    weights = 1 / profile.covariance.diagonal()[1:]
    pooled = scores[:, 1:] @ weights / weights.sum()
    assert smooth.values == pytest.approx([scores[:, 0].mean(), pooled.mean(), pooled.mean()])
    assert smooth.covariance[1, 2] == pytest.approx(pooled.var(ddof=1) / 40)
    assert smooth.covariance[0, 1] == pytest.approx(np.cov(scores[:, 0], pooled)[0, 1] / 40)


def test_monotone_leaves_a_falling_profile_alone():
    profile = LossProfile(5, [0, 2, 4], [3.0, 2.0, 2.0])
    assert profile.monotone().values.tolist() == [3, 2, 2]
    assert LossProfile(3, range(3), [3.0, 1.0, 2.0]).monotone().values.tolist() == [3, 1.5, 1.5]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    profile = smooth_profile(40, 9)
    profile.save(tmp_path / "profile.json", fingerprint="abc")
    for fingerprint in (None, "abc"):
        loaded = LossProfile.load(tmp_path / "profile.json", fingerprint)
        assert loaded.length == 40
        for name in ("counts", "values", "covariance"):
            assert np.array_equal(getattr(loaded, name), getattr(profile, name))
    with pytest.raises(UserError, match="another checkpoint"):
        LossProfile.load(tmp_path / "profile.json", "abd")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"version": 2}),
        json.dumps({"version": 1, "length": 2, "counts": [0, 1], "values": [1.0, 1.0]}),
        json.dumps({"version": 1, "length": 2, "counts": [0], "values": [1.0], "covariance": [[0.0]]}),
        json.dumps({"version": 1, "length": 1, "counts": [0], "values": ["x"], "covariance": [[0.0]]}),
    ],
)
def test_files_that_are_none(content, tmp_path):
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(UserError, match="measure it again"):
        LossProfile.load(tmp_path / "profile.json")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        LossProfile.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, [0, 1], [1.0, 1.0]), "counts"),
        ((3, [1, 2], [1.0, 1.0]), "counts"),
        ((3, [0, 1, 1, 2], [1.0] * 4), "counts"),
        ((0, [], []), "counts"),
        ((3, [0, 2], [1.0]), "value"),
        ((3, [0, 2], [1.0, math.nan]), "value"),
        ((3, [0, 2], [1.0, 1.0], [[1.0]]), "covariance"),
        ((3, [0, 2], [1.0, 1.0], [[1.0, 2.0], [0.0, 1.0]]), "covariance"),
        ((3, [0, 2], [1.0, 1.0], [[-1.0, 0.0], [0.0, 1.0]]), "covariance"),
        ((3, [0, 2], [1.0, 1.0], [[math.inf, 0.0], [0.0, 1.0]]), "covariance"),
    ],
)
def test_bad_profiles(arguments, message):
    with pytest.raises(ValueError, match=message):
        LossProfile(*arguments)


def test_bad_scores_and_counts():
    with pytest.raises(ValueError, match="two sequences"):
        LossProfile.from_scores([0, 2], np.ones((1, 2)), 3)
    for counts in ([2, 2], [4, -1]):
        with pytest.raises(ValueError, match="sum to the length 3"):
            LossProfile(3, [0, 2], [1.0, 1.0]).nelbo_of_counts(counts)


@pytest.mark.parametrize("schedule", [LinearSchedule(), SquaredSineSchedule(), BetaSchedule(0.9, 0.8)], ids=name_of)
def test_to_first_order_the_gap_is_an_energy(schedule):
    """K gap_K tends to (n/2) times the integral of -h'(alpha_t) (dalpha_t/dt)^2, where h' is a Bernstein sum too."""
    n, steps = 12, 4000
    profile = LossProfile(n, range(n), np.exp(-np.arange(n) / 3))
    falling = LossProfile(n - 1, range(n - 1), -np.diff(profile.values) * (n - 1))
    t = (torch.arange(20_000).double() + 0.5) / 20_000
    integrand = falling.h(schedule.alpha_t(t).numpy()) * schedule.dalpha_t(t).numpy() ** 2
    assert steps * profile.gap(schedule, steps).value == pytest.approx(n / 2 * integrand.mean(), rel=0.01)


@pytest.mark.parametrize("shapes", [(0.05, 50.0), (50.0, 0.05), (0.05, 0.05), (20.0, 20.0), (200.0, 0.05)])
def test_extreme_betas(shapes):
    """NELBO_K against 40 digits, where most of the grid is within rounding of 0 or 1."""
    profile, steps = smooth_profile(30, 8), 8
    costs = [mpmath.mpf(float(h)) for h in profile.per_count]
    with mpmath.workdps(40):

        def kept(a, b, t):
            return mpmath.sin(mpmath.pi / 2 * mpmath.betainc(a, b, 0, t, regularized=True)) ** 2

        times = [mpmath.mpf(k) / steps for k in range(steps + 1)]
        alphas = [kept(*shapes, t) for t in times]
        masked = [kept(*shapes[::-1], 1 - t) for t in times]
        total = mpmath.mpf(0)
        for k in range(steps):
            binomial = [mpmath.binomial(29, r) * alphas[k] ** r * masked[k] ** (29 - r) for r in range(30)]
            h = sum(p * cost for p, cost in zip(binomial, costs, strict=True))
            total += 30 * h * (masked[k] - masked[k + 1] if alphas[k] > 0.5 else alphas[k + 1] - alphas[k])
    schedule = BetaSchedule(*shapes)
    assert profile.nelbo(schedule, steps).value == pytest.approx(float(total), rel=1e-13)
    assert profile.nelbo_of_betas(np.array([shapes]), steps)[0] == pytest.approx(float(total), rel=1e-7)
