"""Distributions of the mask schedules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

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

from .tables import ANALYTIC, SCHEDULES, TABULATED, name_of

INSIDE = torch.linspace(0, 1, 401, dtype=torch.float64)[1:-1]

all_schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
analytic_schedules = pytest.mark.parametrize("schedule", ANALYTIC, ids=name_of)

shapes = st.floats(0.05, 20)
times = st.floats(0, 1)


def close(actual: torch.Tensor, expected: torch.Tensor | float, rtol: float, atol: float = 0.0) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(actual)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def derivative(f, t: torch.Tensor, h: float) -> torch.Tensor:
    """Central differences with two Richardson steps: the error is of order h^6."""

    def central(h):
        return (f(t + h) - f(t - h)) / (2 * h)

    def fourth(h):
        return (4 * central(h / 2) - central(h)) / 3

    return (16 * fourth(h / 2) - fourth(h)) / 15


@all_schedules
def test_ends(schedule):
    close(schedule.alpha_t(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]), rtol=0, atol=1e-15)
    close(schedule.masked_t(torch.tensor([0.0, 1.0])), torch.tensor([1.0, 0.0]), rtol=0, atol=1e-15)
    close(schedule.gamma_t(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]), rtol=0, atol=1e-15)


@all_schedules
def test_strictly_increasing(schedule):
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert (schedule.alpha_t(t).diff() > 0).all()
    assert (schedule.masked_t(t).diff() < 0).all()
    assert (schedule.gamma_t(t).diff() > 0).all()


@all_schedules
def test_masked_and_kept_sum_to_one(schedule):
    close(schedule.alpha_t(INSIDE) + schedule.masked_t(INSIDE), 1.0, rtol=0, atol=1e-14)


@all_schedules
def test_derivatives(schedule):
    # PCHIP has a second derivative only between its points: stay clear of them.
    t = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    if schedule in TABULATED:
        knots = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
        t = t[(t[:, None] - knots).abs().amin(1) > 5e-3]
    close(schedule.dalpha_t(t), derivative(schedule.alpha_t, t, 4e-3), rtol=1e-7)
    close(schedule.dgamma_t(t), derivative(schedule.gamma_t, t, 4e-3), rtol=1e-7)


@all_schedules
def test_gamma_satisfies_the_optimality_condition(schedule):
    alpha = schedule.alpha_t(INSIDE)
    close(schedule.gamma_t(INSIDE), 2 / math.pi * alpha.sqrt().arcsin(), rtol=1e-9)
    close(alpha, torch.sin(math.pi / 2 * schedule.gamma_t(INSIDE)) ** 2, rtol=1e-12)


@all_schedules
def test_generic_formulas_agree_with_overrides(schedule):
    """A subclass may compute gamma and the weight its own way; the definition stays."""
    close(schedule.gamma_t(INSIDE), MaskSchedule.gamma_t(schedule, INSIDE), rtol=1e-12)
    close(schedule.dgamma_t(INSIDE), MaskSchedule.dgamma_t(schedule, INSIDE), rtol=1e-11)
    close(schedule.weight_t(INSIDE), schedule.dalpha_t(INSIDE) / schedule.masked_t(INSIDE), rtol=1e-12)


@all_schedules
@pytest.mark.parametrize("n", [1, 5])
def test_weight_integrates_every_loss_alike(schedule, n):
    """The integral of weight_t f(alpha_t) is that of f(a) / (1 - a) over a: harmonic number H_n for f = 1 - a^n."""

    def integrand(t: float) -> float:
        masked = float(schedule.masked_t(t))
        return float(schedule.weight_t(t)) * -math.expm1(n * math.log1p(-masked)) if masked < 1 else 0.0

    points = [0.2, 0.25, 0.5, 0.75] if schedule in TABULATED else [0.5]
    value, error = integrate.quad(integrand, 0, 1 - 1e-15, points=points, epsabs=1e-9, epsrel=1e-9, limit=200)
    assert value == pytest.approx(sum(1 / k for k in range(1, n + 1)), abs=max(1e-6, 2 * error))


@pytest.mark.parametrize(
    ("schedule", "mirror"),
    [
        (LinearSchedule(), LinearSchedule()),
        (SineSchedule(), CosineSchedule()),
        (CosineSchedule(), SineSchedule()),
        (SquaredSineSchedule(), SquaredSineSchedule()),
        (BetaSchedule(0.9, 0.3), BetaSchedule(0.3, 0.9)),
        (BetaSchedule(3.0, 0.2), BetaSchedule(0.2, 3.0)),
    ],
    ids=name_of,
)
def test_mirror_images(schedule, mirror):
    """1 - alpha at 1 - x is the mirror schedule's alpha at x: no cancellation, however close to the end."""
    x = 2.0 ** -torch.arange(1, 50, dtype=torch.float64)
    close(schedule.masked_t(1 - x), mirror.alpha_t(x), rtol=1e-12)
    close(schedule.dalpha_t(1 - x), mirror.dalpha_t(x), rtol=1e-11)


@pytest.mark.parametrize(
    ("schedule", "scale", "power"),
    [
        (LinearSchedule(), 1, 1),
        (SineSchedule(), math.pi / 2, 1),
        (CosineSchedule(), math.pi**2 / 8, 2),
        (SquaredSineSchedule(), math.pi**2 / 4, 2),
        (PolynomialSchedule(3.0), 3, 1),
        (PolynomialSchedule(0.7), 0.7, 1),
        (BetaSchedule(0.9, 0.3), (math.pi / 2 / 0.9 / special.beta(0.9, 0.3)) ** 2, 1.8),
    ],
    ids=name_of,
)
def test_start_to_full_relative_precision(schedule, scale, power):
    x = 2.0 ** -torch.arange(30, 50, dtype=torch.float64)
    close(schedule.alpha_t(x), scale * x**power, rtol=1e-8)


@pytest.mark.parametrize(
    ("schedule", "order"),
    [
        (LinearSchedule(), 1),
        (SineSchedule(), 2),
        (CosineSchedule(), 1),
        (SquaredSineSchedule(), 2),
        (PolynomialSchedule(0.7), 0.7),
        (PolynomialSchedule(3.0), 3),
        (BetaSchedule(0.9, 0.3), 0.6),
        (BetaSchedule(0.3, 0.9), 1.8),
        (BetaSchedule(1.0, 20.0), 40),
        (TabulatedSchedule([0, 0.1, 0.5, 0.6, 1]), 1),
    ],
    ids=lambda value: name_of(value) if isinstance(value, MaskSchedule) else str(value),
)
def test_weight_near_the_end(schedule, order):
    """Where 1 - alpha vanishes as x^p, x = 1 - t, the weight is p / x: it must not drown in rounding."""
    x = 2.0 ** -torch.arange(32, 49, dtype=torch.float64)
    close(schedule.weight_t(1 - x) * x, order, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_polynomial(power):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    close(PolynomialSchedule(power).alpha_t(t), 1 - (1 - t) ** power, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", ["alpha_t", "masked_t", "dalpha_t", "weight_t", "gamma_t", "dgamma_t"])
@pytest.mark.parametrize(
    ("schedule", "same"),
    [
        (BetaSchedule(0.5, 0.5), LinearSchedule()),
        (BetaSchedule(1.0, 1.0), SquaredSineSchedule()),
        (PolynomialSchedule(1.0), LinearSchedule()),
    ],
    ids=name_of,
)
def test_equal_schedules(schedule, same, method):
    close(getattr(schedule, method)(INSIDE), getattr(same, method)(INSIDE), rtol=1e-12)


@pytest.mark.parametrize("method", ["alpha_t", "masked_t", "dalpha_t", "gamma_t"])
def test_equal_schedules_at_the_ends(method):
    ends = torch.tensor([0.0, 1.0])
    for schedule, same in [
        (BetaSchedule(0.5, 0.5), LinearSchedule()),
        (BetaSchedule(1.0, 1.0), SquaredSineSchedule()),
        (PolynomialSchedule(1.0), LinearSchedule()),
    ]:
        close(getattr(schedule, method)(ends), getattr(same, method)(ends), rtol=1e-12, atol=1e-12)


@analytic_schedules
def test_dgamma_is_its_own_limit_at_the_ends(schedule):
    """Finite, zero or infinite, but never NaN, and continuous."""
    for end, near, further in ((0.0, 1e-12, 1e-6), (1.0, 1 - 1e-12, 1 - 1e-6)):
        at_end, beside = float(schedule.dgamma_t(end)), float(schedule.dgamma_t(near))
        if math.isinf(at_end):
            assert beside > 1.5 * float(schedule.dgamma_t(further))
        else:
            assert at_end == pytest.approx(beside, rel=1e-3, abs=1e-2)


@given(a=shapes, b=shapes, t=st.lists(times, min_size=1, max_size=20))
def test_beta_against_scipy(a, b, t):
    schedule, distribution = BetaSchedule(a, b), stats.beta(a, b)
    gamma, left = np.asarray(distribution.cdf(t)), np.asarray(distribution.sf(t))
    t = torch.tensor(t, dtype=torch.float64)
    close(schedule.gamma_t(t), torch.as_tensor(gamma), rtol=1e-12)
    close(schedule.alpha_t(t), torch.as_tensor(np.sin(np.pi / 2 * gamma) ** 2), rtol=1e-11, atol=1e-300)
    close(schedule.masked_t(t), torch.as_tensor(np.sin(np.pi / 2 * left) ** 2), rtol=1e-11, atol=1e-300)
    inside = (t > 1e-300) & (t < 1)
    gamma, left, pdf = gamma[inside.numpy()], left[inside.numpy()], distribution.pdf(t[inside].numpy())
    close(schedule.dgamma_t(t[inside]), torch.as_tensor(pdf), rtol=1e-9, atol=1e-300)
    slope = np.pi * np.sin(np.pi / 2 * gamma) * np.sin(np.pi / 2 * left) * pdf
    close(schedule.dalpha_t(t[inside]), torch.as_tensor(slope), rtol=1e-9, atol=1e-300)


@given(a=shapes, b=shapes, t=st.lists(times, min_size=2, max_size=20))
def test_beta_properties(a, b, t):
    schedule = BetaSchedule(a, b)
    t = torch.tensor(t, dtype=torch.float64).sort().values
    alpha, masked = schedule.alpha_t(t), schedule.masked_t(t)
    assert ((alpha >= 0) & (alpha <= 1)).all()
    assert (alpha.diff() >= -1e-14).all()
    assert (masked.diff() <= 1e-14).all()
    assert ((alpha + masked - 1).abs() <= 1e-14).all()
    assert (schedule.dalpha_t(t) >= 0).all()
    assert (schedule.weight_t(t[t < 1]) >= 0).all()


@pytest.mark.parametrize("a", [0.05, 0.5, 20.0])
@pytest.mark.parametrize("b", [0.05, 0.5, 20.0])
def test_extreme_betas(a, b):
    schedule = BetaSchedule(a, b)
    tiny = 2.0 ** -torch.arange(2, 53, dtype=torch.float64)
    t = torch.cat([tiny, INSIDE, 1 - tiny]).sort().values
    for method in ("alpha_t", "masked_t", "dalpha_t", "gamma_t", "dgamma_t"):
        value = getattr(schedule, method)(t)
        assert torch.isfinite(value).all(), method
        assert (value >= 0).all(), method
    assert not schedule.weight_t(t).isnan().any()
    assert torch.isfinite(schedule.weight_t(t[t < 1 - 1e-15])).all()
    assert (schedule.alpha_t(t).diff() >= 0).all()


@pytest.mark.parametrize("other", [0.05, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_beta_end_slopes(other, t):
    """alpha_t behaves as t^(2 alpha) at the start: an infinite, finite or zero slope; the end mirrors it."""

    def at(shape: float) -> BetaSchedule:
        return BetaSchedule(shape, other) if t == 0 else BetaSchedule(other, shape)

    assert at(0.49).dalpha_t(t) == math.inf
    assert at(0.51).dalpha_t(t) == 0
    near = 1e-14 if t == 0 else 1 - 2.0**-47
    assert float(at(0.5).dalpha_t(t)) == pytest.approx(float(at(0.5).dalpha_t(near)), rel=1e-3)
    assert float(at(0.5).dalpha_t(t)) == pytest.approx((math.pi / special.beta(0.5, other)) ** 2)


@given(data=st.data())
def test_tabulated_passes_through_its_points(data):
    steps = st.lists(st.floats(0.01, 1), min_size=1, max_size=8)
    rises = data.draw(steps)
    alphas = np.concatenate([[0], np.cumsum(rises)[:-1] / sum(rises), [1]])
    gaps = data.draw(st.lists(st.floats(0.01, 1), min_size=len(rises), max_size=len(rises)))
    knots = np.concatenate([[0], np.cumsum(gaps)[:-1] / sum(gaps), [1]])
    schedule = TabulatedSchedule(alphas.tolist(), knots.tolist())
    close(schedule.alpha_t(torch.as_tensor(knots)), torch.as_tensor(alphas), rtol=0, atol=1e-14)
    t = torch.linspace(0, 1, 500, dtype=torch.float64)
    assert (schedule.alpha_t(t).diff() > 0).all()
    assert (schedule.dalpha_t(t) >= 0).all()
    assert not schedule.weight_t(t[:-1]).isnan().any()


def test_tabulated_times_are_even_by_default():
    t = torch.linspace(0, 1, 50)
    even = TabulatedSchedule([0, 0.1, 0.8, 1], times=[0, 1 / 3, 2 / 3, 1])
    close(TabulatedSchedule([0, 0.1, 0.8, 1]).alpha_t(t), even.alpha_t(t), rtol=1e-12)
    close(TabulatedSchedule([0, 1]).alpha_t(t), LinearSchedule().alpha_t(t), rtol=1e-12)


def test_table_of_another_schedule_comes_close_to_it():
    knots = torch.linspace(0, 1, 101, dtype=torch.float64)
    schedule = SquaredSineSchedule()
    table = TabulatedSchedule(schedule.alpha_t(knots).tolist())
    close(table.alpha_t(INSIDE), schedule.alpha_t(INSIDE), rtol=0, atol=2e-5)


@all_schedules
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 1, 4)])
@pytest.mark.parametrize("method", ["alpha_t", "masked_t", "dalpha_t", "weight_t", "gamma_t", "dgamma_t"])
def test_elementwise_in_float64(schedule, shape, method):
    t = 0.05 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    value = getattr(schedule, method)(t)
    assert value.shape == shape
    assert value.dtype == torch.float64
    one_by_one = [float(getattr(schedule, method)(float(x))) for x in t.flatten()]
    assert value.flatten().tolist() == pytest.approx(one_by_one, rel=1e-12)


@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan, math.inf, -math.inf])
def test_bad_parameters(value):
    with pytest.raises(ValueError, match="alpha"):
        BetaSchedule(alpha=value)
    with pytest.raises(ValueError, match="beta"):
        BetaSchedule(beta=value)
    with pytest.raises(ValueError, match="exponent"):
        PolynomialSchedule(value)


@pytest.mark.parametrize("value", ["1.0", None])
@pytest.mark.parametrize("schedule", [BetaSchedule, PolynomialSchedule])
def test_parameters_that_are_no_numbers(schedule, value):
    with pytest.raises(ValueError, match="must be positive and finite"):
        schedule(value)


@pytest.mark.parametrize(
    ("alphas", "knots"),
    [
        ([], None),
        ([0], None),
        (0.5, None),
        ([[0, 1]], None),
        ([0, 0.6, 0.4, 1], None),
        ([0.1, 1], None),
        ([0, 0.9], None),
        ([0, 1.5, 1], None),
        ([0, -0.5, 1], None),
        ([0, math.nan, 1], None),
        ([0, math.inf, 1], None),
        ([0, 0.5, 1], [0, 1]),
        ([0, 1], []),
        ([0, 0.5, 1], [0, 0, 1]),
        ([0, 0.3, 0.5, 1], [0, 0.6, 0.4, 1]),
        ([0, 0.5, 1], [0.1, 0.5, 1]),
        ([0, 0.5, 1], [0, 0.5, 2]),
        ([0, 0.5, 1], [0, math.nan, 1]),
        ([0, 0.5, 1], [0, math.inf, 1]),
    ],
)
def test_bad_tables(alphas, knots):
    with pytest.raises(ValueError, match="TabulatedSchedule"):
        TabulatedSchedule(alphas, knots)


def test_tabulated_slope_where_it_vanishes():
    """After a steep interval PCHIP ends with slope zero: there 1 - alpha is quadratic, the slope twice it / (1 - t)."""
    schedule = TabulatedSchedule([0.0, 0.05, 0.9, 1.0])
    left = torch.tensor([2.0**-k for k in range(10, 50)], dtype=torch.float64)
    ratio = schedule.dalpha_t(1 - left) * left / schedule.masked_t(1 - left)
    torch.testing.assert_close(ratio, torch.full_like(left, 2), rtol=5e-3, atol=0)
    torch.testing.assert_close(ratio[20:], torch.full_like(left[20:], 2), rtol=1e-8, atol=0)


def test_tabulated_slopes_agree_from_both_sides():
    """The two curves of which one serves before and one after t = 1/2 are the same, so their slopes join."""
    schedule = TabulatedSchedule([0.0, 0.3, 0.35, 0.9, 1.0])
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    step = 1e-6
    inside = t[(t > step) & (t < 1 - step)]
    slopes = (schedule.alpha_t(inside + step) - schedule.alpha_t(inside - step)) / (2 * step)
    torch.testing.assert_close(schedule.dalpha_t(inside), slopes, rtol=0, atol=1e-4)
