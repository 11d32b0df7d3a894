"""Energies of mask schedules, and the schedules that minimise them.

The energy of a mask schedule alpha under the interpolation schedule gamma is

    E[alpha; gamma] = integral over t in (0, 1) of  dalpha^2 / (alpha (1 - alpha) dgamma).

The kinetic, conditional kinetic and geodesic energies of a masked diffusion model are multiples of it
(``distribution_energy.py``), so all three have one minimiser: alpha = sin^2(pi/2 gamma), with minimum pi^2 whatever
gamma is.

Source: *Masked Diffusion Models as Energy Minimization* (Chen et al., NeurIPS 2025), section 3.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy import optimize, special
from torch import Tensor
from torch.nn.functional import logsigmoid

from mdm_lightning.diffusion.mask_schedule import Ends, finite
from mdm_lightning.diffusion.schedule import MaskSchedule, Times
from mdm_lightning.diffusion.theory.quadrature import integral

MINIMUM = math.pi**2
"""The least energy of any schedule, attained where it fits the weight: alpha = sin^2(pi/2 gamma)."""


def energy(schedule: MaskSchedule, weight: MaskSchedule) -> float:
    """E[alpha; gamma] by quadrature; ``inf`` where the integral diverges.

    With the arc phi_t = (2/pi) arcsin(sqrt(alpha_t)) of the schedule it is pi^2 times the integral of dphi^2 / dgamma.
    Whether it diverges at an end of time is decided by the exponents that the schedules know (``MaskSchedule.ends``).

    For the schedules of ``schedule.py`` the relative error is below 1e-9, for parameters from 0.05 to 200 at least. One
    that does not know its own ends is read off: its energies have six digits or so, fewer if it approaches the powers
    of its ends slowly, and it is taken to stand still at an end where its exponent is beyond 90.

    Args:
        schedule: the mask schedule alpha.
        weight: the schedule whose ``gamma_t`` is the interpolation schedule gamma.
    """
    return weighted_energy(schedule, weight, torch.zeros_like)


def weighted_energy(schedule: MaskSchedule, weight: MaskSchedule, log_factor: Callable[[Times], Times]) -> float:
    """pi^2 times the integral of a factor times dphi^2 / dgamma.

    Args:
        log_factor: its logarithm at log-odds of time; bounded.
    """

    pairs = list(zip(schedule.ends, weight.ends, strict=True))
    left, right = (math.inf if math.isinf(own) else 2 * own - other for own, other in pairs)
    first, last = (2 * finite(own) - finite(other) for own, other in pairs)

    def log_density(odds: Times) -> Times:
        arc = schedule.log_regular(odds)
        powers = first * logsigmoid(odds) + last * logsigmoid(-odds)
        # Where nothing moves, nothing is paid.
        return torch.where(arc == -math.inf, arc, powers + 2 * arc - weight.log_regular(odds) + log_factor(odds))

    return MINIMUM * integral(log_density, left, right)


def beta_energy(
    alpha: ArrayLike, beta: ArrayLike, weight_alpha: ArrayLike, weight_beta: ArrayLike
) -> Float64[np.ndarray, "..."]:
    """E[alpha; gamma] in closed form for alpha_t of Beta(alpha, beta) and gamma of Beta(weight_alpha, weight_beta).

        pi^2 B(a, b) B(2a' - a, 2b' - b) / B(a', b')^2    if 2a' > a and 2b' > b, else infinite,

    with (a', b') the schedule and (a, b) the weight. Elementwise; the arguments broadcast.
    """
    first, second = (np.asarray(x, dtype=np.float64) for x in (alpha, beta))
    left, right = 2 * first - np.asarray(weight_alpha), 2 * second - np.asarray(weight_beta)
    finite = (left > 0) & (right > 0)
    logarithm = (
        special.betaln(weight_alpha, weight_beta)
        + special.betaln(np.where(finite, left, 1), np.where(finite, right, 1))
        - 2 * special.betaln(first, second)
    )
    return np.where(finite, MINIMUM * np.exp(logarithm), np.inf)


@dataclass(frozen=True)
class OptimalSchedule(MaskSchedule):
    """The schedule alpha_t = sin^2(pi/2 gamma_t) that minimises every energy under a given gamma (eq. 9).

    The converse of ``MaskSchedule.gamma_t``, which says for which gamma a given schedule is optimal.

    Args:
        gamma: the interpolation schedule, an increasing curve from 0 to 1 given as the ``alpha_t`` of a schedule: a
            TabulatedSchedule of gammas, for instance. LinearSchedule gives the squared sine.
    """

    gamma: MaskSchedule

    def gamma_t(self, t: Tensor | float) -> Times:
        return self.gamma.alpha_t(t)

    def dgamma_t(self, t: Tensor | float) -> Times:
        return self.gamma.dalpha_t(t)

    def alpha_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * self.gamma.alpha_t(t)) ** 2

    def masked_t(self, t: Tensor | float) -> Times:
        return torch.sin(math.pi / 2 * self.gamma.masked_t(t)) ** 2

    @property
    def ends(self) -> Ends:
        # gamma_t is the alpha_t of a schedule, the square of its arc's sine.
        return Ends(*(2 * power for power in self.gamma.ends))

    def dalpha_t(self, t: Tensor | float) -> Times:
        # At the ends themselves it may be 0 * infinity; the nearest numbers inside give the limit.
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu").clamp(2**-60, 1 - 2**-53)
        sines = torch.sin(math.pi / 2 * self.gamma.alpha_t(t)) * torch.sin(math.pi / 2 * self.gamma.masked_t(t))
        return math.pi * sines * self.gamma.dalpha_t(t)


def discrete_geodesic_energy(arcs: Sequence[float], gammas: Sequence[float]) -> float:
    """Geodesic energy of a token's path on a grid: sum over k of 2 (1 - cos theta_k) / (gamma_{k+1} - gamma_k).

    theta_k = pi/2 (arc_{k+1} - arc_k) is the angle between consecutive points (sqrt(1 - alpha), sqrt(alpha)) of the
    quarter circle, 2 (1 - cos theta_k) their squared distance. It tends to E / 4 from below as the grid is refined.

    Args:
        arcs: arc (2/pi) arcsin(sqrt(alpha)) at each grid point, not decreasing from 0 to 1.
        gammas: gamma at each grid point, strictly increasing from 0 to 1.

    Raises:
        ValueError: the two do not describe a path.
    """
    points, widths = np.asarray(arcs, dtype=np.float64), _widths(gammas)
    if points.shape != (len(widths) + 1,) or points[0] != 0 or points[-1] != 1 or (np.diff(points) < 0).any():
        raise ValueError(f"arcs must be {len(widths) + 1} numbers, not decreasing from 0 to 1")
    # 2 (1 - cos x) = 4 sin^2(x/2), without cancellation.
    return float((4 * np.sin(math.pi / 4 * np.diff(points)) ** 2 / widths).sum())


def discrete_geodesic(gammas: Sequence[float]) -> Float64[np.ndarray, " k"]:
    """The arcs that minimise ``discrete_geodesic_energy`` for given gammas.

    The energy is strictly convex in the angles, which sum to pi/2, so sin(theta_k) = c (gamma_{k+1} - gamma_k) at the
    minimum. For equal steps of gamma the points divide the arc evenly; for unequal steps they divide it in proportion
    to gamma only in the limit of fine grids.

    Raises:
        ValueError: gammas do not increase strictly from 0 to 1.
    """
    widths = _widths(gammas)
    shares = widths / widths.max()

    def excess(c: float) -> float:
        return float(np.arcsin(c * shares).sum()) - math.pi / 2

    # At c = 1 the widest step alone takes a quarter circle.
    c = optimize.brentq(excess, 0, 1, xtol=1e-15) if excess(1) > 0 else 1.0
    angles = np.arcsin(np.minimum(c * shares, 1))
    arcs = np.concatenate([[0], angles.cumsum()])
    return arcs / arcs[-1]


def _widths(gammas: Sequence[float]) -> Float64[np.ndarray, " k"]:
    points = np.asarray(gammas, dtype=np.float64)
    if points.ndim != 1 or len(points) < 2 or points[0] != 0 or points[-1] != 1 or (np.diff(points) <= 0).any():
        raise ValueError("gammas must be at least two numbers that increase strictly from 0 to 1")
    return np.diff(points)
