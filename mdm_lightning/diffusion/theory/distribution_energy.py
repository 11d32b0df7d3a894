"""The energies of a masked diffusion model of an enumerable distribution, computed from their definitions.

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

from mdm_lightning.diffusion.schedule import MaskSchedule, Times
from mdm_lightning.diffusion.theory.energy import weighted_energy

Sequences = Sequence[Sequence[int]]

NEAR = 1e-15


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
        """Enumerates the states of a distribution: at most N 2^n of them."""
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

    def distribution_t(self, schedule: MaskSchedule, t: Times) -> Float64[Tensor, "t s"]:
        """p_t(z), the distribution of the state at each time."""
        return self.distribution(schedule.alpha_t(t), schedule.masked_t(t))

    def distribution(self, alpha: Times, masked: Times) -> Float64[Tensor, "t s"]:
        """The distribution of the state where tokens are kept with probability alpha = 1 - masked."""
        return alpha[:, None] ** (self.length - self.masks) * masked[:, None] ** self.masks * self.probability

    def dalpha_distribution_t(self, schedule: MaskSchedule, t: Times) -> Float64[Tensor, "t s"]:
        """Derivative of p_t(z) with respect to time."""
        return schedule.dalpha_t(t)[:, None] * self.dalpha_distribution(schedule.alpha_t(t), schedule.masked_t(t))

    def dalpha_distribution(self, alpha: Times, masked: Times) -> Float64[Tensor, "t s"]:
        """Derivative of the distribution with respect to alpha."""
        alpha, masked, kept = alpha[:, None], masked[:, None], self.length - self.masks
        gain = kept * alpha ** (kept - 1).clamp(min=0) * masked**self.masks
        loss = self.masks * alpha**kept * masked ** (self.masks - 1).clamp(min=0)
        return (gain - loss) * self.probability

    def rates_t(self, schedule: MaskSchedule, t: Times) -> Float64[Tensor, "t e"]:
        """R_t(z, y), the rate of each transition of the reverse process."""
        return schedule.weight_t(t)[:, None] * self.conditional

    @property
    def conditional(self) -> Float64[Tensor, " e"]:
        """p(x_i = v | z) of each transition: which token is revealed."""
        return self.probability[self.target] / self.probability[self.source]


def kinetic_energy(
    sequences: Sequences, probabilities: Sequence[float], schedule: MaskSchedule, weight: MaskSchedule
) -> float:
    """Kinetic energy, ``kinetic_constant(sequences)`` times ``energy(schedule, weight)``."""
    states = MaskedStates.of(sequences, probabilities)
    return _energy(lambda alpha, masked: _kinetic_density(states, alpha, masked), schedule, weight)


def conditional_energy(
    sequences: Sequences, probabilities: Sequence[float], schedule: MaskSchedule, weight: MaskSchedule
) -> float:
    """Conditional kinetic energy, ``conditional_constant(n)`` times ``energy(schedule, weight)``."""
    bound = [(p, MaskedStates.of([x], [1.0])) for x, p in zip(sequences, probabilities, strict=True)]

    def density(alpha: Times, masked: Times) -> Times:
        return torch.stack([p * _kinetic_density(states, alpha, masked) for p, states in bound]).sum(0)

    return _energy(density, schedule, weight)


def geodesic_energy(
    sequences: Sequences, probabilities: Sequence[float], schedule: MaskSchedule, weight: MaskSchedule
) -> float:
    """Geodesic energy, n times ``energy(schedule, weight)``."""
    states = MaskedStates.of(sequences, probabilities)
    return _energy(
        lambda *kept: (states.dalpha_distribution(*kept) ** 2 / states.distribution(*kept)).sum(1), schedule, weight
    )


def kinetic_constant(sequences: Sequences) -> int:
    """C_k: the number of masks summed over the masked states of positive probability, by enumeration."""
    return int(MaskedStates.of(sequences, [1.0] * len(sequences)).masks.sum())


def full_support_kinetic_constant(length: int, vocab_size: int) -> int:
    """C_k = n (d + 1)^(n - 1) of a distribution that gives every sequence positive probability."""
    return length * (vocab_size + 1) ** (length - 1)


def conditional_constant(length: int) -> int:
    """n 2^(n - 1), the number of transitions towards one clean sequence."""
    return length * 2 ** (length - 1)


def _kinetic_density(states: MaskedStates, alpha: Times, masked: Times) -> Times:
    """Sum over transitions of flux^2 / (p_t(z) p_t(y)), for alpha_t of unit speed."""
    distribution = states.distribution(alpha, masked)
    flux = distribution[:, states.source] * (states.conditional / masked[:, None])
    return (flux / distribution[:, states.source] * (flux / distribution[:, states.target])).sum(1)


def _energy(density: Callable[[Times, Times], Times], schedule: MaskSchedule, weight: MaskSchedule) -> float:
    """The integral over time of a density that is a function of the state times dalpha^2, over dgamma.

    dalpha^2 = pi^2 alpha (1 - alpha) dphi^2 with the arc phi of ``energy.py``. The density times alpha (1 - alpha) is
    bounded; within 1e-15 of an end of alpha it is taken there, lest the distributions underflow.
    """

    def log_factor(odds: Times) -> Times:
        t = torch.sigmoid(odds)
        alpha, masked = schedule.alpha_t(t).clamp(min=NEAR), schedule.masked_t(t).clamp(min=NEAR)
        return (density(alpha, masked) * alpha * masked).log()

    return weighted_energy(schedule, weight, log_factor)
