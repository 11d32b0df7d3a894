"""Mask schedules: linear, sine, squared sine, cosine, polynomial, the Beta family, and tables.

Source: *Masked Diffusion Models as Energy Minimization* (Chen et al., NeurIPS 2025), sections 3 and 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import special
from scipy.interpolate import PchipInterpolator
from torch import Tensor
from torch.nn.functional import logsigmoid

from mdm_lightning.arguments import check, finite
from mdm_lightning.diffusion.mask_schedule import Ends, MaskSchedule, Times, as_times


@dataclass(frozen=True)
class LinearSchedule(MaskSchedule):
    """alpha_t = t. Equal to Beta(1/2, 1/2)."""

    def alpha_t(self, t: Tensor | float) -> Times:
        return as_times(t)

    def masked_t(self, t: Tensor | float) -> Times:
        return 1 - as_times(t)

    def dalpha_t(self, t: Tensor | float) -> Times:
        return torch.ones_like(as_times(t))

    @property
    def ends(self) -> Ends:
        return Ends(0.5, 0.5)

    def log_regular(self, odds: Times) -> Times:
        return torch.full_like(odds, -math.log(math.pi))


@dataclass(frozen=True)
class SineSchedule(MaskSchedule):
    """alpha_t = sin(pi t / 2)."""

    def alpha_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * as_times(t))

    def masked_t(self, t: Tensor | float) -> Times:
        return 2 * torch.sin(math.pi / 4 * (1 - as_times(t))) ** 2

    def dalpha_t(self, t: Tensor | float) -> Times:
        return math.pi / 2 * torch.sin(math.pi / 2 * (1 - as_times(t)))

    def dgamma_t(self, t: Tensor | float) -> Times:
        alpha = self.alpha_t(t)
        return ((1 + alpha) / alpha).sqrt() / 2

    @property
    def ends(self) -> Ends:
        return Ends(0.5, 1.0)

    def log_regular(self, odds: Times) -> Times:
        t = torch.sigmoid(odds)
        alpha_over_t = math.pi / 2 * torch.sinc(t / 2)
        return (torch.log1p(self.alpha_t(t)) - alpha_over_t.log()) / 2 - math.log(2)


@dataclass(frozen=True)
class SquaredSineSchedule(MaskSchedule):
    """alpha_t = sin^2(pi t / 2), also called cosine-squared. Equal to Beta(1, 1).

    The Fisher-Rao geodesic from all masked to clean (Zhang & Syed, 2025, arXiv:2508.04884).
    """

    def alpha_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * as_times(t)) ** 2

    def masked_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * (1 - as_times(t))) ** 2

    def dalpha_t(self, t: Tensor | float) -> Times:
        t = as_times(t)
        return math.pi * torch.sin(math.pi / 2 * t) * torch.sin(math.pi / 2 * (1 - t))

    def dgamma_t(self, t: Tensor | float) -> Times:
        return torch.ones_like(as_times(t))

    @property
    def ends(self) -> Ends:
        return Ends(1.0, 1.0)

    def log_regular(self, odds: Times) -> Times:
        return torch.zeros_like(odds)


@dataclass(frozen=True)
class CosineSchedule(MaskSchedule):
    """alpha_t = 1 - cos(pi t / 2), the schedule of MaskGIT."""

    def alpha_t(self, t: Tensor | float) -> Times:
        return 2 * torch.sin(math.pi / 4 * as_times(t)) ** 2

    def masked_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * (1 - as_times(t)))

    def dalpha_t(self, t: Tensor | float) -> Times:
        return math.pi / 2 * torch.sin(math.pi / 2 * as_times(t))

    def dgamma_t(self, t: Tensor | float) -> Times:
        masked = self.masked_t(t)
        return ((1 + masked) / masked).sqrt() / 2

    @property
    def ends(self) -> Ends:
        return Ends(1.0, 0.5)

    def log_regular(self, odds: Times) -> Times:
        return SineSchedule().log_regular(-odds)


@dataclass(frozen=True)
class PolynomialSchedule(MaskSchedule):
    """alpha_t = 1 - (1 - t)^exponent.

    Raises:
        ValueError: the exponent is not positive and finite.
    """

    exponent: float = 2.0

    def __post_init__(self) -> None:
        check(self, "exponent", finite(self.exponent) and self.exponent > 0, "positive and finite")

    def alpha_t(self, t: Tensor | float) -> Times:
        return -torch.expm1(self.exponent * torch.log1p(-as_times(t)))

    def masked_t(self, t: Tensor | float) -> Times:
        return (1 - as_times(t)) ** self.exponent

    def dalpha_t(self, t: Tensor | float) -> Times:
        return self.exponent * (1 - as_times(t)) ** (self.exponent - 1)

    def weight_t(self, t: Tensor | float) -> Times:
        return self.exponent / (1 - as_times(t))

    def dgamma_t(self, t: Tensor | float) -> Times:
        return self.exponent * (1 - as_times(t)) ** (self.exponent / 2 - 1) / (math.pi * self.alpha_t(t).sqrt())

    @property
    def ends(self) -> Ends:
        return Ends(0.5, self.exponent / 2)

    def log_regular(self, odds: Times) -> Times:
        t = torch.sigmoid(odds).clamp(min=torch.finfo(odds.dtype).tiny)
        alpha_over_t = -torch.expm1(self.exponent * logsigmoid(-odds)) / t
        # Near t = 0, where log(1 - t) is too small a number to tell.
        alpha_over_t = torch.where(odds < -50, self.exponent, alpha_over_t)
        return math.log(self.exponent / math.pi) - alpha_over_t.log() / 2


@dataclass(frozen=True)
class BetaSchedule(MaskSchedule):
    """The energy-optimal schedule alpha_t = sin^2(pi/2 gamma_t) of the weight gamma_t = CDF of Beta(alpha, beta).

    ``alpha`` > ``beta``, as in (0.9, 0.3), reveals few tokens early and many late.

    Raises:
        ValueError: a parameter is not positive and finite.
    """

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check(self, "alpha", finite(self.alpha) and self.alpha > 0, "positive and finite")
        check(self, "beta", finite(self.beta) and self.beta > 0, "positive and finite")

    def gamma_t(self, t: Tensor | float) -> Times:
        return torch.as_tensor(special.betainc(self.alpha, self.beta, as_times(t).numpy()))

    @property
    def ends(self) -> Ends:
        return Ends(self.alpha, self.beta)

    def log_regular(self, odds: Times) -> Times:
        return torch.full_like(odds, -float(special.betaln(self.alpha, self.beta)))

    def _gamma_left(self, t: Tensor | float) -> Times:
        """1 - gamma_t, accurate near t = 1."""
        return torch.as_tensor(special.betaincc(self.alpha, self.beta, as_times(t).numpy()))

    def dgamma_t(self, t: Tensor | float) -> Times:
        """Density of Beta(alpha, beta) at t."""
        t = as_times(t)
        log_density = (
            torch.special.xlogy(t.new_tensor(self.alpha - 1), t)
            + torch.special.xlog1py(t.new_tensor(self.beta - 1), -t)
            - special.betaln(self.alpha, self.beta)
        )
        return log_density.exp()

    def alpha_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * self.gamma_t(t)) ** 2

    def masked_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * self._gamma_left(t)) ** 2

    def dalpha_t(self, t: Tensor | float) -> Times:
        t = as_times(t)
        inner = math.pi * torch.sin(math.pi / 2 * self.gamma_t(t)) * torch.sin(math.pi / 2 * self._gamma_left(t))
        # At an end the formula is 0 * infinity; there alpha_t behaves as t^(2 alpha), 1 - alpha_t as (1-t)^(2 beta).
        value = torch.where(t == 0, self._end_slope(self.alpha), inner * self.dgamma_t(t))
        return torch.where(t == 1, self._end_slope(self.beta), value)

    def _end_slope(self, shape: float) -> float:
        """Limit of (pi^2 / 2) x^(2 shape - 1) / (shape B^2) as x -> 0, the slope of alpha_t at an end."""
        if shape == 0.5:
            return math.pi**2 * math.exp(-2 * float(special.betaln(self.alpha, self.beta)))
        return math.inf if shape < 0.5 else 0.0

    def weight_t(self, t: Tensor | float) -> Times:
        # Dividing dalpha_t by masked_t would underflow where masked_t does; this form cancels one sine by hand.
        t = as_times(t)
        inside = (
            math.pi
            * torch.sin(math.pi / 2 * self.gamma_t(t))
            / torch.sin(math.pi / 2 * self._gamma_left(t))
            * self.dgamma_t(t)
        )
        return torch.where(t == 0, self._end_slope(self.alpha), inside)


@dataclass(frozen=True)
class TabulatedSchedule(MaskSchedule):
    """A schedule through given points, joined by a monotone cubic (PCHIP).

    Args:
        alphas: values of alpha_t, not decreasing, from 0 to 1.
        times: where they are taken, strictly increasing from 0 to 1; evenly spaced when omitted.

    Raises:
        ValueError: the points do not describe a schedule.
    """

    alphas: Sequence[float]
    times: Sequence[float] | None = None
    _curve: PchipInterpolator = field(init=False, repr=False, compare=False)
    _mirror: PchipInterpolator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        alphas = np.asarray(self.alphas, dtype=np.float64)
        if alphas.ndim != 1 or len(alphas) < 2:
            raise ValueError("TabulatedSchedule: alphas must be a list of at least two values")
        times = np.linspace(0, 1, len(alphas)) if self.times is None else np.asarray(self.times, dtype=np.float64)
        if times.shape != alphas.shape:
            raise ValueError(f"TabulatedSchedule: {len(alphas)} alphas but {times.size} times")
        if not (np.all(np.diff(times) > 0) and times[0] == 0 and times[-1] == 1):
            raise ValueError("TabulatedSchedule: times must increase strictly from 0 to 1")
        if not (np.all(np.diff(alphas) >= 0) and alphas[0] == 0 and alphas[-1] == 1):
            raise ValueError("TabulatedSchedule: alphas must not decrease, and must run from 0 to 1")
        object.__setattr__(self, "_curve", PchipInterpolator(times, alphas))
        object.__setattr__(self, "_mirror", PchipInterpolator(1 - times[::-1], 1 - alphas[::-1]))

    def alpha_t(self, t: Tensor | float) -> Times:
        return torch.as_tensor(np.asarray(self._curve(as_times(t).numpy()))).clamp(0, 1)

    def masked_t(self, t: Tensor | float) -> Times:
        return torch.as_tensor(np.asarray(self._mirror(1 - as_times(t).numpy()))).clamp(0, 1)

    def dalpha_t(self, t: Tensor | float) -> Times:
        times = as_times(t).numpy()
        # Near t = 1 the derivative may vanish, and only the curve seen from there knows it without cancellation.
        slopes = np.where(times < 0.5, self._curve(times, nu=1), self._mirror(1 - times, nu=1))
        return torch.as_tensor(slopes).clamp(min=0)

    @property
    def ends(self) -> Ends:
        # The first power of the distance from the end that the curve begins with, halved by the arc's square root.
        return Ends(*(_first_power(curve.c[-2::-1, 0]) / 2 for curve in (self._curve, self._mirror)))


def _first_power(coefficients: Sequence[float]) -> float:
    """The least power 1, 2, 3 of a cubic that counts; infinite without any."""
    sizes = np.abs(coefficients)
    return next((power + 1.0 for power, size in enumerate(sizes) if size > 1e-12 * sizes.max()), math.inf)
