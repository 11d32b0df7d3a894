"""The energies of a masked diffusion model of an enumerable law, computed from their definitions.

The states z of the process are the partly masked sequences of positive probability. With m of its n positions masked,
p_t(z) = alpha_t^(n - m) (1 - alpha_t)^m p(z), where p(z) is the data probability of its unmasked tokens. The reverse
process leaves z for y = (z with the masked position i set to v) at the rate R_t(z, y) = dalpha_t / (1 - alpha_t)
p(x_i = v | z), which carries the flux j_t(z, y) = p_t(z) R_t(z, y). All energies are integrals over t:

- kinetic:      sum over z, y of  j_t(z, y)^2 / (p_t(z) p_t(y) dgamma_t)
- conditional:  the mean over clean sequences x of the kinetic energy of the process that is bound for x
- geodesic:     sum over z of  dp_t(z)^2 / (p_t(z) dgamma_t), which is 4 |dy|^2 / dgamma on the sphere y = sqrt(p)

Each equals a constant times E[alpha; gamma] of ``energy.py``. The kinetic summand is dalpha^2 / (alpha (1 - alpha))
p(v | z), which sums to the number of masks in z; the geodesic one is the variance of a binomial score.

Source: *Masked Diffusion Models as Energy Minimization* (Chen et al., NeurIPS 2025), section 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mdm_lightning.diffusion.energy import over_speed
from mdm_lightning.diffusion.quadrature import integral
from mdm_lightning.diffusion.schedule import MaskSchedule, Times

Sequences = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class MaskedStates:
    """The partly masked sequences of positive probability, and the transitions that reveal one position."""

    length: int
    probability: Float64[Tensor, " s"]
    """Data probability p(z) of each state's unmasked tokens."""
    masks: Int64[Tensor, " s"]
    """Number of masked positions of each state."""
    source: Int64[Tensor, " e"]
    """State that each transition leaves."""
    target: Int64[Tensor, " e"]
    """State that each transition reaches."""

    @classmethod
    def of(cls, sequences: Sequences, probabilities: Sequence[float]) -> "MaskedStates":
        """Enumerates the states of a law: at most N 2^n of them."""
        clean = np.asarray(sequences, dtype=np.int64)
        n, base = clean.shape[1], int(clean.max()) + 2
        place = base ** np.arange(n)
        kept = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        # A state's code has a digit per position: 0 for MASK, 1 + token elsewhere.
        spelled = (((clean + 1) * place)[:, None] * kept).sum(2).flatten()
        codes, state = np.unique(spelled, return_inverse=True)
        probability = np.bincount(state, np.repeat(np.asarray(probabilities, dtype=np.float64), 2**n))
        digits = codes[:, None] // place % base
        masked = digits == 0
        reached = (codes[:, None] + place)[:, :, None] + place[:, None] * np.arange(base - 1)
        target = np.searchsorted(codes, reached).clip(max=len(codes) - 1)
        source, position, token = np.nonzero(masked[:, :, None] & (codes[target] == reached))
        return cls(
            n,
            torch.from_numpy(probability),
            torch.from_numpy(masked.sum(1)),
            torch.from_numpy(source),
            torch.from_numpy(target[source, position, token]),
        )

    def law_t(self, schedule: MaskSchedule, t: Times) -> Float64[Tensor, "t s"]:
        """p_t(z), the law of the state at each time."""
        kept = schedule.alpha_t(t)[:, None] ** (self.length - self.masks)
        return kept * schedule.masked_t(t)[:, None] ** self.masks * self.probability

    def dlaw_t(self, schedule: MaskSchedule, t: Times) -> Float64[Tensor, "t s"]:
        """Derivative of p_t(z) with respect to time."""
        alpha, masked = schedule.alpha_t(t)[:, None], schedule.masked_t(t)[:, None]
        kept = self.length - self.masks
        gain = kept * alpha ** (kept - 1).clamp(min=0) * masked**self.masks
        loss = self.masks * alpha**kept * masked ** (self.masks - 1).clamp(min=0)
        return schedule.dalpha_t(t)[:, None] * (gain - loss) * self.probability

    def rates_t(self, schedule: MaskSchedule, t: Times) -> Float64[Tensor, "t e"]:
        """R_t(z, y), the rate of each transition of the reverse process."""
        conditional = self.probability[self.target] / self.probability[self.source]
        return schedule.weight_t(t)[:, None] * conditional


def kinetic_energy(
    sequences: Sequences, probabilities: Sequence[float], schedule: MaskSchedule, weight: MaskSchedule
) -> float:
    """Kinetic energy, ``kinetic_constant(sequences)`` times ``energy(schedule, weight)``."""
    states = MaskedStates.of(sequences, probabilities)
    return _energy(lambda t: _kinetic_density(states, schedule, t), weight)


def conditional_energy(
    sequences: Sequences, probabilities: Sequence[float], schedule: MaskSchedule, weight: MaskSchedule
) -> float:
    """Conditional kinetic energy, ``conditional_constant(n)`` times ``energy(schedule, weight)``."""
    bound = [(p, MaskedStates.of([x], [1.0])) for x, p in zip(sequences, probabilities, strict=True)]

    def density(t: Times) -> Times:
        return torch.stack([p * _kinetic_density(states, schedule, t) for p, states in bound]).sum(0)

    return _energy(density, weight)


def geodesic_energy(
    sequences: Sequences, probabilities: Sequence[float], schedule: MaskSchedule, weight: MaskSchedule
) -> float:
    """Geodesic energy, n times ``energy(schedule, weight)``."""
    states = MaskedStates.of(sequences, probabilities)
    return _energy(lambda t: (states.dlaw_t(schedule, t) ** 2 / states.law_t(schedule, t)).sum(1), weight)


def kinetic_constant(sequences: Sequences) -> int:
    """C_k: the number of masks summed over the masked states of positive probability, by enumeration."""
    return int(MaskedStates.of(sequences, [1.0] * len(sequences)).masks.sum())


def full_support_kinetic_constant(length: int, vocab_size: int) -> int:
    """C_k = n (d + 1)^(n - 1) of a law that gives every sequence positive probability."""
    return length * (vocab_size + 1) ** (length - 1)


def conditional_constant(length: int) -> int:
    """n 2^(n - 1), the number of transitions towards one clean sequence."""
    return length * 2 ** (length - 1)


def _kinetic_density(states: MaskedStates, schedule: MaskSchedule, t: Times) -> Times:
    """Sum over transitions of flux^2 / (p_t(z) p_t(y))."""
    law, rates = states.law_t(schedule, t), states.rates_t(schedule, t)
    flux = law[:, states.source] * rates
    return (flux / law[:, states.source] * (flux / law[:, states.target])).sum(1)


def _energy(density: Callable[[Times], Times], weight: MaskSchedule) -> float:
    return integral(lambda t: over_speed(density(t), weight, t))
