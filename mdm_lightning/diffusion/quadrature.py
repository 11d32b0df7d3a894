"""Integrals over time of densities that may be infinite at t = 0 and t = 1.

Energies integrate products of powers of t and 1 - t whose exponents can lie close to -1, where most of the integral
sits closer to an end than the nearest floating-point number. So the ends are integrated in closed form.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

Density = Callable[[Float64[Tensor, " t"]], Float64[Tensor, " t"]]

TAIL = 2.0**-20  # below this distance from an end the density is a power times a line
PROBE = 2.0**-40  # where that power is read off; 1 - PROBE is exact in float64
SMALLEST_EXPONENT = 1e-8  # of x in the integral of the tail; it is known to about 1e-12, 4e-9 for Polynomial(0.7)

_TOLERANCE = 1e-11
_LEVELS = 40
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


def integral(density: Density) -> float:
    """Integral of a density over [0, 1] to a relative accuracy of about 1e-9; ``inf`` where it diverges.

    Divergence is found, not inferred from a large number: near an end the density behaves as C x^(s - 1) in the
    distance x from it, and the integral exists exactly if s > 0. The exponent s is read off the density.

    Args:
        density: non-negative and continuous on (0, 1), a power at either end (or zero near it). It may be infinite
            on an interval, which makes the integral so.
    """
    return _half(density) + _half(lambda x: density(1 - x))


def _half(density: Density) -> float:
    """Integral over (0, 1/2]."""
    edges = torch.logspace(math.log2(TAIL), -1, 20, base=2, dtype=torch.float64)
    tail = _tail(density)
    return tail if math.isinf(tail) else tail + _adaptive(density, edges[:-1], edges[1:])


def _tail(density: Density) -> float:
    """Integral over (0, TAIL]: of x^(s - 1) (c + k x), with s from the probes and the line from two points."""
    near, far = density(torch.tensor([PROBE, 2 * PROBE], dtype=torch.float64)).tolist()
    if near == 0 or math.isinf(near):
        return near
    exponent = 1 + math.log2(far / near)
    if exponent < SMALLEST_EXPONENT:
        return math.inf
    x = torch.tensor([TAIL / 2, TAIL], dtype=torch.float64)
    middle, end = (density(x) * (x / TAIL) ** (1 - exponent)).tolist()
    return TAIL * ((2 * middle - end) / exponent + 2 * (end - middle) / (exponent + 1))


def _adaptive(density: Density, left: Float64[Tensor, " p"], right: Float64[Tensor, " p"]) -> float:
    """Gauss-Legendre quadrature; panels on which it disagrees with that of their halves are bisected."""
    coarse, total = _panels(density, left, right), 0.0
    scale = float(coarse.sum())
    for _ in range(_LEVELS):
        middle = (left + right) / 2
        left, right = torch.stack([left, middle]), torch.stack([middle, right])
        fine = _panels(density, left, right)
        if not bool(fine.isfinite().all()):
            return math.inf
        open_ = (fine.sum(0) - coarse).abs() > _TOLERANCE * scale
        total += float(fine[:, ~open_].sum())
        left, right, coarse = (part[:, open_].flatten() for part in (left, right, fine))
        if not len(coarse):
            break
    return total + float(coarse.sum())


def _panels(density: Density, left: Float64[Tensor, "*p"], right: Float64[Tensor, "*p"]) -> Float64[Tensor, "*p"]:
    half = (right - left) / 2
    points = (left + right)[..., None] / 2 + half[..., None] * torch.from_numpy(_NODES)
    return half * (density(points.flatten()).reshape(points.shape) @ torch.from_numpy(_WEIGHTS))
