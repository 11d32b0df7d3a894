"""Integrals over time, taken over its log-odds s = log(t / (1 - t)).

Energies integrate products of powers of t and 1 - t whose exponents can lie close to -1, where most of the integral
sits closer to an end than the nearest floating-point number, or so high that the product underflows almost everywhere.
Over the log-odds both are harmless: powers become exponentials, of which logarithms are computed.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

LogDensity = Callable[[Float64[Tensor, " s"]], Float64[Tensor, " s"]]

_NEGLIGIBLE = 60.0  # of an exponential, e^-60 is left out
_TOLERANCE = 1e-12
_LEVELS = 40
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)


def integral(log_density: LogDensity, left: float, right: float) -> float:
    """Integral over all log-odds of a density given by its logarithm, to a relative accuracy of 1e-9 or so.

    Args:
        log_density: log of the density; -inf for nothing, +inf if the integral diverges somewhere inside.
        left: the density behaves as e^(left s) as s falls, for t as t^left; the integral exists only if it is positive.
            Infinite if there is nothing near this end.
        right: the same for e^(-right s) as s grows.
    """
    if min(left, right) <= 0:
        return math.inf
    # As Beta(left, right) is placed, whose density this would be if it were nothing but its two powers.
    low, high = min(left, 1e6), min(right, 1e6)
    centre, width = math.log(low / high), math.sqrt(1 / low + 1 / high)
    distances = min(width, 1.0) * 2.0 ** np.arange(-1, 200)
    reach = _NEGLIGIBLE * (1 + 1 / low), _NEGLIGIBLE * (1 + 1 / high)
    before, after = (distances[: int(np.searchsorted(distances, abs(centre) + part)) + 1] for part in reach)
    edges = torch.from_numpy(np.concatenate([centre - before[::-1], [centre], centre + after]))
    return _adaptive(log_density, edges[:-1], edges[1:])


def _adaptive(log_density: LogDensity, left: Float64[Tensor, " p"], right: Float64[Tensor, " p"]) -> float:
    """Gauss-Legendre quadrature; panels on which it disagrees with that of their halves are bisected."""
    peak = float(log_density(_points(left, right).flatten()).max())
    if math.isinf(peak):
        return 0.0 if peak < 0 else math.inf
    coarse, total = _panels(log_density, left, right, peak), 0.0
    scale = float(coarse.sum())
    for _ in range(_LEVELS):
        middle = (left + right) / 2
        left, right = torch.stack([left, middle]), torch.stack([middle, right])
        fine = _panels(log_density, left, right, peak)
        if not bool(fine.isfinite().all()):
            return math.inf
        open_ = (fine.sum(0) - coarse).abs() > _TOLERANCE * scale
        total += float(fine[:, ~open_].sum())
        left, right, coarse = (part[:, open_].flatten() for part in (left, right, fine))
        if not len(coarse):
            break
    return (total + float(coarse.sum())) * math.exp(min(peak, 709.0))


def _panels(
    log_density: LogDensity, left: Float64[Tensor, "*p"], right: Float64[Tensor, "*p"], peak: float
) -> Float64[Tensor, "*p"]:
    points = _points(left, right)
    values = (log_density(points.flatten()) - peak).exp().reshape(points.shape)
    return (right - left) / 2 * (values @ torch.from_numpy(_WEIGHTS))


def _points(left: Float64[Tensor, "*p"], right: Float64[Tensor, "*p"]) -> Float64[Tensor, "*p q"]:
    return (left + right)[..., None] / 2 + (right - left)[..., None] / 2 * torch.from_numpy(_NODES)
