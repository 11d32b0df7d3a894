"""What a mask schedule is: alpha_t, the probability that a token is kept at time t, and what follows from it.

Time runs along generation: t = 0 is all MASK, t = 1 is clean (alpha_0 = 0, alpha_1 = 1). Everything is computed in
float64 on the CPU, elementwise on tensors of any shape: a schedule is evaluated at a handful of times per batch, and
rounding there would move probability mass.

Source: *Masked Diffusion Models as Energy Minimization* (Chen et al., NeurIPS 2025), sections 3 and 4.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

Times = Float64[Tensor, "..."]

PROBES = (2.0**-40, 2.0**-30, 2.0**-20, 2.0**-10)  # distances from an end; 1 less any of them is exact in float64


class Ends(NamedTuple):
    """The exponents of gamma at both ends of time: of t in gamma_t near t = 0, and of 1 - t in 1 - gamma_t near t = 1;
    infinite where the schedule stands still there."""

    left: float
    right: float


def finite(power: float) -> float:
    """An exponent of ``Ends``, 0 for an infinite one."""
    return power if math.isfinite(power) else 0.0


def as_times(t: Tensor | float) -> Times:
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


class MaskSchedule(ABC):
    """A mask schedule and its derivatives, as functions of t in [0, 1].

    Subclasses give ``alpha_t``, ``masked_t`` and ``dalpha_t``; the rest follows. ``masked_t`` is 1 - alpha_t computed
    without cancellation, because the loss divides by it and it vanishes at t = 1.

    Energies are integrals over the log-odds s = log(t / (1 - t)), on which both ends of time are equally far away:
    ``ends`` and ``log_regular`` say how gamma behaves there. Subclasses that know both exactly say so; otherwise they
    are read off ``dgamma_t``.
    """

    @abstractmethod
    def alpha_t(self, t: Tensor | float) -> Times:
        """Probability that a token is kept (not masked) at time t."""

    @abstractmethod
    def masked_t(self, t: Tensor | float) -> Times:
        """Probability 1 - alpha_t that a token is masked at time t, accurate near t = 1."""

    @abstractmethod
    def dalpha_t(self, t: Tensor | float) -> Times:
        """Derivative of alpha_t with respect to t; may be infinite at an end of the interval."""

    def weight_t(self, t: Tensor | float) -> Times:
        """NELBO weight dalpha_t / (1 - alpha_t) for t in [0, 1); diverges at t = 1."""
        return self.dalpha_t(t) / self.masked_t(t)

    def gamma_t(self, t: Tensor | float) -> Times:
        """Interpolation schedule gamma = (2 / pi) arcsin(sqrt(alpha_t)) for which this schedule is optimal (eq. 9).

        Written with the two-argument arctangent, which keeps full precision at both ends.
        """
        return 2 / math.pi * torch.atan2(self.alpha_t(t).sqrt(), self.masked_t(t).sqrt())

    def dgamma_t(self, t: Tensor | float) -> Times:
        """Derivative of gamma_t: dalpha_t / (pi sqrt(alpha_t (1 - alpha_t)))."""
        return self.dalpha_t(t) / (math.pi * self.alpha_t(t).sqrt() * self.masked_t(t).sqrt())

    @property
    def ends(self) -> Ends:
        """The exponents at both ends, here to about eight digits."""
        return Ends(*map(self._exponent, (0, 1)))

    def log_regular(self, odds: Times) -> Times:
        """log of dgamma_t t^(1 - p) (1 - t)^(1 - q) at the log-odds of time, with p and q the ``ends`` (0 for infinite
        ones): what is left of dgamma_t without its powers is bounded near both ends. -inf where nothing moves.

        Here from ``dgamma_t``, and constant where t is nearer to an end than a float64 can tell.
        """
        first, last = (self._probe(end) or PROBES[0] for end in (0, 1))
        t = torch.sigmoid(odds).clamp(first, 1 - last)
        powers = (1 - finite(self.ends.left)) * t.log() + (1 - finite(self.ends.right)) * (-t).log1p()
        density = self.dgamma_t(t)
        return torch.where(density > 0, density.log() + powers, -math.inf)

    def _probe(self, end: int) -> float | None:
        """The distance from an end at which its exponent is read off: the least at which dgamma_t does not underflow.
        None if it is zero at all of them, as where the schedule stands still."""
        densities = self.dgamma_t(torch.tensor([abs(end - probe) for probe in PROBES], dtype=torch.float64)).tolist()
        return next((probe for probe, density in zip(PROBES, densities, strict=True) if density > 1e-290), None)

    def _exponent(self, end: int) -> float:
        probe = self._probe(end)
        if probe is None:
            return math.inf
        places = torch.tensor([abs(end - probe), abs(end - 2 * probe)], dtype=torch.float64)
        near, far = self.dgamma_t(places).tolist()
        return round(1 + math.log2(far / near), 8)
