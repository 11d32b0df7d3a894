"""The energy: quadrature against the closed form and plain sums, and its minimum."""

import itertools
import math
import random
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    CosineSchedule,
    LinearSchedule,
    MaskSchedule,
    PolynomialSchedule,
    SineSchedule,
    SquaredSineSchedule,
    TabulatedSchedule,
)
from mdm_lightning.diffusion.theory.energy import (
    MINIMUM,
    OptimalSchedule,
    beta_energy,
    discrete_geodesic,
    discrete_geodesic_energy,
    energy,
)

from .tables import ANALYTIC, SCHEDULES, name_of

shapes = st.floats(math.log(0.05), math.log(20)).map(math.exp)
betas = st.builds(BetaSchedule, shapes, shapes)
T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


def closed_form(schedule: BetaSchedule, weight: BetaSchedule) -> float:
    return float(beta_energy(schedule.alpha, schedule.beta, weight.alpha, weight.beta))


@pytest.mark.parametrize(
    ("schedule", "weight", "value"),
    [((0.8, 0.8), (1, 1), 10.359244742), ((0.9, 0.6), (0.7, 0.5), 10.169164553)],
)
def test_known_values(schedule, weight, value):
    assert closed_form(BetaSchedule(*schedule), BetaSchedule(*weight)) == pytest.approx(value, abs=1e-9)
    assert energy(BetaSchedule(*schedule), BetaSchedule(*weight)) == pytest.approx(value, abs=1e-9)


@given(weight=betas, left=st.floats(0.05, 3), right=st.floats(0.05, 3))
def test_quadrature_is_the_closed_form(weight, left, right):
    """Where 2a' - a = left and 2b' - b = right: from nearly divergent to steep, parameters from 0.05 to 20."""
    schedule = BetaSchedule((weight.alpha + left) / 2, (weight.beta + right) / 2)
    assert energy(schedule, weight) == pytest.approx(closed_form(schedule, weight), rel=1e-11)


@given(schedule=betas, weight=betas)
def test_divergence_is_found(schedule, weight):
    """Whether a random pair has a finite energy, and which."""
    expected = closed_form(schedule, weight)
    assert math.isinf(expected) == (2 * schedule.alpha <= weight.alpha or 2 * schedule.beta <= weight.beta)
    assert energy(schedule, weight) == pytest.approx(expected, rel=1e-11)


WIDE = [0.05, 0.3, 1.0, 7.0, 29.5, 60.0, 200.0]


def test_a_wide_grid_of_parameters():
    """From 0.05 to 200, where most densities underflow nearly everywhere: log-beta functions with 30 digits."""
    pairs = random.Random(0).sample(list(itertools.product(WIDE, repeat=4)), 250)
    # Near the border of divergence too: 2a' - a down to 1e-6.
    logs = np.random.default_rng(0).uniform([-3, -3, -14, -14], [5.3, 5.3, 4.6, 4.6], (60, 4))
    pairs += [((a + left) / 2, (b + right) / 2, a, b) for a, b, left, right in np.exp(logs).tolist()]
    finite = 0
    with mpmath.workdps(30):
        for first, second, a, b in pairs:
            found = energy(BetaSchedule(first, second), BetaSchedule(a, b))
            left, right = 2 * mpmath.mpf(first) - a, 2 * mpmath.mpf(second) - b
            if min(left, right) <= 0:
                assert found == math.inf
                continue
            finite += 1
            beta = mpmath.beta
            exact = mpmath.pi**2 * beta(a, b) * beta(left, right) / beta(first, second) ** 2
            assert abs(found / exact - 1) < 1e-11, (first, second, a, b)
    assert finite > 100


def plain(schedule: MaskSchedule):
    """dalpha / sqrt(alpha (1 - alpha)) in mpmath, from the formulas, at t = 1 - x."""
    pi = mpmath.pi
    match schedule:
        case LinearSchedule():
            return lambda t, x: 1 / mpmath.sqrt(t * x)
        case SineSchedule():
            return lambda t, x: (
                pi / 2 * mpmath.sin(pi * x / 2) / mpmath.sqrt(mpmath.sin(pi * t / 2) * 2 * mpmath.sin(pi * x / 4) ** 2)
            )
        case CosineSchedule():
            return lambda t, x: plain(SineSchedule())(x, t)
        case SquaredSineSchedule():
            return lambda t, x: pi
        case PolynomialSchedule(w):
            return lambda t, x: w * x ** (w - 1) / mpmath.sqrt(x**w * -mpmath.expm1(w * mpmath.log1p(-t)))
        case BetaSchedule(a, b):
            return lambda t, x: pi * t ** (a - 1) * x ** (b - 1) / mpmath.beta(a, b)
    raise AssertionError(schedule)


HAND_MADE = [
    (PolynomialSchedule(0.55), LinearSchedule()),
    (PolynomialSchedule(0.55), PolynomialSchedule(0.55)),
    (PolynomialSchedule(0.3), PolynomialSchedule(0.4)),
    (LinearSchedule(), PolynomialSchedule(1.9)),
    (PolynomialSchedule(40.0), BetaSchedule(0.3, 30.0)),
    (SineSchedule(), LinearSchedule()),
    (LinearSchedule(), SineSchedule()),
    (CosineSchedule(), BetaSchedule(1.7, 0.6)),
    (SquaredSineSchedule(), CosineSchedule()),
    (SineSchedule(), CosineSchedule()),
]


def by_quadrature(schedule: MaskSchedule, weight: MaskSchedule) -> float:
    """mpmath's own quadrature of the definition, over log-odds of time."""
    arc, speed = plain(schedule), plain(weight)

    def density(s):
        t, x = 1 / (1 + mpmath.exp(-s)), 1 / (1 + mpmath.exp(s))
        return arc(t, x) ** 2 / speed(t, x) * mpmath.pi * t * x

    with mpmath.workdps(20):
        return float(mpmath.quad(density, [-1000, -200, -50, -12, -3, 0, 3, 12, 50, 200, 1000]))


@pytest.mark.parametrize(("schedule", "weight"), HAND_MADE, ids=name_of)
def test_hand_made_schedules(schedule, weight):
    """Infinite where an exponent says so, else what mpmath finds."""
    diverges = any(2 * own <= other for own, other in zip(schedule.ends, weight.ends, strict=True))
    expected = math.inf if diverges else by_quadrature(schedule, weight)
    assert energy(schedule, weight) == pytest.approx(expected, rel=1e-10)


@dataclass(frozen=True)
class Own(MaskSchedule):
    """A schedule as users write them: it does not say what it knows of its ends."""

    inner: MaskSchedule

    def alpha_t(self, t):
        return self.inner.alpha_t(t)

    def masked_t(self, t):
        return self.inner.masked_t(t)

    def dalpha_t(self, t):
        return self.inner.dalpha_t(t)


@pytest.mark.parametrize(("schedule", "weight"), [*HAND_MADE, (BetaSchedule(8.0, 9.0), BetaSchedule(15.0, 17.0))],
                         ids=name_of)  # fmt: skip
def test_schedules_that_do_not_say_how_they_end(schedule, weight):
    """What is read off at the ends is good for six digits, where the power is soon reached, and finds divergence."""
    accuracy = 1e-4 if schedule == PolynomialSchedule(0.3) else 1e-6
    assert energy(Own(schedule), Own(weight)) == pytest.approx(energy(schedule, weight), rel=accuracy)
    assert tuple(Own(schedule).ends) == pytest.approx(tuple(schedule.ends), abs=accuracy)


@pytest.mark.parametrize("schedule", [*SCHEDULES, TabulatedSchedule([0, 0, 0.3, 1]), OptimalSchedule(LinearSchedule()),
                                      OptimalSchedule(BetaSchedule(0.7, 2.0))], ids=name_of)  # fmt: skip
def test_the_powers_and_what_is_left_make_the_derivative(schedule):
    odds = torch.linspace(-8, 8, 33, dtype=torch.float64)
    t, ends = torch.sigmoid(odds), [power if math.isfinite(power) else 0 for power in schedule.ends]
    expected = schedule.dgamma_t(t).nan_to_num(nan=0.0) * t ** (1 - ends[0]) * (1 - t) ** (1 - ends[1])
    torch.testing.assert_close(schedule.log_regular(odds).exp(), expected, rtol=1e-8, atol=0)


def test_exponents_of_tables():
    """Curves that begin with a slope, without one, and not at all; a slope that is rounded to nearly zero is none."""
    assert TabulatedSchedule([0, 0.5, 1]).ends == (0.5, 0.5)
    assert TabulatedSchedule([0, 0.1, 0.4, 1]).ends[0] == 1.0
    assert TabulatedSchedule([0, 0, 1]).ends[0] == math.inf
    assert energy(TabulatedSchedule([0, 0.1, 0.4, 1]), LinearSchedule()) < math.inf
    assert energy(TabulatedSchedule([0, 0.2, 0.5, 1]), BetaSchedule(1.0, 0.5)) == math.inf


@pytest.mark.parametrize("shape", [0.05, 0.3, 1.0, 7.0, 20.0])
@pytest.mark.parametrize("other", [0.05, 1.0, 20.0])
def test_divergence_at_the_very_border(shape, other):
    """2a' = a exactly diverges, a thousandth more does not; likewise at the other end."""
    border, beyond = shape / 2, shape / 2 * 1.001
    assert energy(BetaSchedule(border, other), BetaSchedule(shape, other)) == math.inf
    assert energy(BetaSchedule(other, border), BetaSchedule(other, shape)) == math.inf
    for schedule, weight in (
        (BetaSchedule(beyond, other), BetaSchedule(shape, other)),
        (BetaSchedule(other, beyond), BetaSchedule(other, shape)),
    ):
        assert energy(schedule, weight) == pytest.approx(closed_form(schedule, weight), rel=1e-5)


@pytest.mark.parametrize("schedule", [*SCHEDULES, TabulatedSchedule([0, 0, 0.3, 0.3, 1])], ids=name_of)
def test_the_minimum_is_pi_squared_at_equality(schedule):
    """Even where the schedule stands still, as some tables do."""
    assert energy(schedule, schedule) == pytest.approx(math.pi**2, rel=1e-9)


@pytest.mark.parametrize("shapes", itertools.product([0.05, 1.0, 20.0], repeat=2))
def test_steep_and_flat_ends_are_accurate(shapes):
    """Even where a sixth of the integral lies nearer to the ends than 1e-16."""
    assert energy(BetaSchedule(*shapes), BetaSchedule(*shapes)) == pytest.approx(math.pi**2, rel=1e-9)


@given(schedule=st.sampled_from(SCHEDULES) | betas, weight=st.sampled_from(SCHEDULES) | betas)
def test_nowhere_lower(schedule, weight):
    assert energy(schedule, weight) >= math.pi**2 * (1 - 1e-7)


@given(schedule=betas, weight=betas)
def test_the_closed_form_is_nowhere_lower(schedule, weight):
    assert closed_form(schedule, weight) >= MINIMUM * (1 - 1e-12)
    assert closed_form(weight, weight) == pytest.approx(MINIMUM, rel=1e-12)


@pytest.mark.parametrize("pair", itertools.product(ANALYTIC[:7], ANALYTIC[:7]), ids=lambda p: "/".join(map(name_of, p)))
def test_against_a_plain_sum(pair):
    """pi^2 sum (change of arc)^2 / (change of gamma) over ever finer grids increases to the energy."""
    schedule, weight = pair
    exact, before = energy(schedule, weight), 0.0
    for cells in (10, 100, 1000, 10_000):
        t = torch.sin(torch.linspace(0, math.pi / 2, cells + 1, dtype=torch.float64)) ** 2
        value = math.pi**2 * float((schedule.gamma_t(t).diff() ** 2 / weight.gamma_t(t).diff()).sum())
        assert before < value * (1 + 1e-9)
        assert value <= exact * (1 + 1e-7)
        before = value
    # Where the energy is infinite the sums grow without end, if only like a logarithm.
    assert (before > 0.98 * exact) if math.isfinite(exact) else before > 1.2 * math.pi**2


def test_standing_still_where_the_weight_moves_not_is_free_and_the_reverse_is_infinite():
    weight = TabulatedSchedule([0, 0.4, 0.4, 1])
    assert energy(LinearSchedule(), weight) == math.inf
    assert math.isfinite(energy(weight, LinearSchedule()))


def test_closed_form_broadcasts():
    a, b = np.linspace(0.3, 2, 5), np.linspace(0.2, 3, 7)[:, None]
    table = beta_energy(a, b, 0.9, 0.6)
    assert table.shape == (7, 5)
    for i, j in itertools.product(range(7), range(5)):
        assert table[i, j] == closed_form(BetaSchedule(float(a[j]), float(b[i, 0])), BetaSchedule(0.9, 0.6))


@pytest.mark.parametrize("schedule", ANALYTIC, ids=name_of)
def test_optimality_both_ways(schedule):
    """Schedule to gamma to schedule: eq. 9 and its converse."""
    gamma = TabulatedSchedule(schedule.gamma_t(torch.linspace(0, 1, 2001, dtype=torch.float64)).clamp(0, 1).tolist())
    back = OptimalSchedule(gamma)
    torch.testing.assert_close(back.alpha_t(T), schedule.alpha_t(T), rtol=0, atol=1e-4)
    torch.testing.assert_close(back.gamma_t(T), gamma.alpha_t(T))
    torch.testing.assert_close(back.alpha_t(T) + back.masked_t(T), torch.ones_like(T))


@pytest.mark.parametrize(
    "gamma", [LinearSchedule(), CosineSchedule(), TabulatedSchedule([0, 0.3, 0.4, 1])], ids=name_of
)
def test_optimal_schedule_is_one(gamma):
    schedule = OptimalSchedule(gamma)
    assert schedule.alpha_t(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0, 1])
    inside = T[1:-1]
    slope = (schedule.alpha_t(inside + 1e-6) - schedule.alpha_t(inside - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.dalpha_t(inside), slope, rtol=1e-5, atol=1e-6)
    # gamma from alpha by the formula of the base class.
    formula = 2 / math.pi * torch.asin(schedule.alpha_t(T).sqrt())
    torch.testing.assert_close(schedule.gamma_t(T), formula, rtol=1e-9, atol=1e-9)
    assert energy(schedule, schedule) == pytest.approx(math.pi**2, rel=1e-7)


def test_optimal_for_a_uniform_gamma_is_the_squared_sine():
    schedule = OptimalSchedule(LinearSchedule())
    torch.testing.assert_close(schedule.alpha_t(T), SquaredSineSchedule().alpha_t(T))
    torch.testing.assert_close(schedule.dalpha_t(T), SquaredSineSchedule().dalpha_t(T))
    assert schedule.dalpha_t(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0, 0], abs=1e-12)


def points(length: int) -> st.SearchStrategy[list[float]]:
    """Increasing numbers from 0 to 1."""
    widths = st.lists(st.floats(0.05, 1), min_size=length, max_size=length)
    return widths.map(lambda w: [0.0, *(np.cumsum(w[:-1]) / sum(w)).tolist(), 1.0])


@given(data=st.data(), length=st.integers(1, 6))
def test_the_discrete_minimiser(data, length):
    """Nothing else is better, and the first-order condition holds: sin(theta_k) goes with the change of gamma."""
    gammas = data.draw(points(length))
    arcs = discrete_geodesic(gammas)
    ratio = np.sin(math.pi / 2 * np.diff(arcs)) / np.diff(gammas)
    assert ratio == pytest.approx(ratio[0], rel=1e-6)
    least = discrete_geodesic_energy(arcs, gammas)
    assert least <= discrete_geodesic_energy(data.draw(points(length)), gammas) * (1 + 1e-12)
    assert least <= discrete_geodesic_energy(gammas, gammas) * (1 + 1e-12)


def test_the_discrete_minimiser_by_numerical_optimisation():
    gammas = [0, 0.15, 0.2, 0.7, 1]

    def value(inside: np.ndarray) -> float:
        return discrete_geodesic_energy([0, *np.sort(inside.clip(0, 1)), 1], gammas)

    found = optimize.minimize(value, gammas[1:-1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert discrete_geodesic(gammas)[1:-1] == pytest.approx(found.x, abs=1e-5)


def test_equal_steps_of_gamma_divide_the_arc_evenly_and_fine_grids_in_proportion():
    assert discrete_geodesic(np.linspace(0, 1, 8).tolist()) == pytest.approx(np.linspace(0, 1, 8))
    gammas = np.linspace(0, 1, 2001) ** 2
    assert discrete_geodesic(gammas.tolist()) == pytest.approx(gammas, abs=1e-6)
    assert discrete_geodesic([0, 0.2, 1])[1] < 0.17, "in proportion only in the limit"


@pytest.mark.parametrize("schedule", [SineSchedule(), BetaSchedule(0.9, 0.6), PolynomialSchedule(3.0)], ids=name_of)
def test_the_discrete_energy_tends_to_a_quarter_of_the_energy(schedule):
    weight, before = BetaSchedule(0.7, 0.5), 0.0
    for cells in (4, 16, 64, 256, 1024):
        t = torch.sin(torch.linspace(0, math.pi / 2, cells + 1, dtype=torch.float64)) ** 4
        arcs, gammas = schedule.gamma_t(t).clamp(0, 1).tolist(), weight.gamma_t(t).clamp(0, 1).tolist()
        value = discrete_geodesic_energy(arcs, gammas)
        # The points on the circle themselves: squared chords over the change of gamma.
        alphas = schedule.alpha_t(t).numpy()
        circle = np.sqrt(np.stack([1 - alphas, alphas]))
        assert value == pytest.approx((np.diff(circle) ** 2).sum(0) @ (1 / np.diff(gammas)), rel=1e-6)
        assert before < value < energy(schedule, weight) / 4
        before = value
    assert before == pytest.approx(energy(schedule, weight) / 4, rel=0.005)


@pytest.mark.parametrize("gammas", [[0], [0, 0.5], [0.1, 1], [0, 0.5, 0.5, 1], [[0, 1]]])
def test_bad_gammas(gammas):
    with pytest.raises(ValueError, match="gammas"):
        discrete_geodesic(gammas)


@pytest.mark.parametrize("arcs", [[0, 1], [0, 0.5, 0.9], [0.1, 0.5, 1], [0, 1.2, 1]])
def test_bad_arcs(arcs):
    with pytest.raises(ValueError, match="arcs"):
        discrete_geodesic_energy(arcs, [0, 0.5, 1])
