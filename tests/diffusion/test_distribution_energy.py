"""The three energies of a distribution from their definitions, against the constants and an enumeration in plain
loops."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate

from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, SineSchedule, SquaredSineSchedule
from mdm_lightning.diffusion.theory.distribution_energy import (
    MaskedStates,
    conditional_constant,
    conditional_energy,
    full_support_kinetic_constant,
    geodesic_energy,
    kinetic_constant,
    kinetic_energy,
)
from mdm_lightning.diffusion.theory.energy import energy

MASK = None
PAIRS = [
    (BetaSchedule(0.8, 0.9), SquaredSineSchedule()),
    (BetaSchedule(0.3, 1.2), BetaSchedule(0.2, 2.0)),
    (BetaSchedule(2.0, 0.1), BetaSchedule(1.5, 0.15)),
    (SineSchedule(), LinearSchedule()),
    (BetaSchedule(60.0, 25.0), BetaSchedule(100.0, 40.0)),
    (BetaSchedule(0.05, 150.0), BetaSchedule(0.09, 200.0)),
]


def random_distribution(n: int, d: int, size: int, seed: int) -> tuple[list[tuple[int, ...]], list[float]]:
    rng = np.random.default_rng(seed)
    everything = list(itertools.product(range(d), repeat=n))
    chosen = sorted(rng.choice(len(everything), size, replace=False))
    return [everything[i] for i in chosen], rng.dirichlet(np.ones(size)).tolist()


LAWS = [(3, 2, 8), (3, 2, 5), (4, 2, 6), (2, 3, 4), (5, 2, 2), (1, 4, 3), (3, 3, 27)]


def enumerate_states(sequences, probabilities) -> dict[tuple, float]:
    """Probability of the unmasked tokens of every masked state, in plain loops."""
    states: dict[tuple, float] = {}
    for x, p in zip(sequences, probabilities, strict=True):
        for kept in itertools.product((False, True), repeat=len(x)):
            z = tuple(token if keep else MASK for token, keep in zip(x, kept, strict=True))
            states[z] = states.get(z, 0) + p
    return states


@pytest.mark.parametrize(("n", "d", "size"), LAWS)
@pytest.mark.parametrize(("schedule", "weight"), PAIRS)
def test_every_energy_is_a_multiple_of_one(n, d, size, schedule, weight):
    sequences, probabilities = random_distribution(n, d, size, seed=size)
    distribution, exact = (sequences, probabilities, schedule, weight), energy(schedule, weight)
    assert kinetic_energy(*distribution) == pytest.approx(kinetic_constant(sequences) * exact, rel=1e-9)
    assert conditional_energy(*distribution) == pytest.approx(conditional_constant(n) * exact, rel=1e-9)
    assert geodesic_energy(*distribution) == pytest.approx(n * exact, rel=1e-9)


def test_all_diverge_together():
    distribution = (*random_distribution(3, 2, 5, seed=0), LinearSchedule(), SquaredSineSchedule())
    assert (
        kinetic_energy(*distribution)
        == conditional_energy(*distribution)
        == geodesic_energy(*distribution)
        == float("inf")
    )


@pytest.mark.parametrize(("n", "d", "size"), LAWS)
def test_kinetic_constant_by_enumeration(n, d, size):
    sequences, probabilities = random_distribution(n, d, size, seed=size)
    states = enumerate_states(sequences, probabilities)
    assert kinetic_constant(sequences) == sum(z.count(MASK) for z in states)
    full = full_support_kinetic_constant(n, d)
    assert kinetic_constant(list(itertools.product(range(d), repeat=n))) == full
    assert kinetic_constant(sequences) <= full


def test_the_paper_energies_in_plain_loops():
    """State by state, with scipy's quadrature and the schedules written out: alpha = sin(pi t / 2) and gamma = t."""
    sequences, probabilities = random_distribution(3, 2, 5, seed=3)
    states, n = enumerate_states(sequences, probabilities), 3

    def densities(t: float) -> tuple[float, float]:
        alpha, rate = np.sin(np.pi * t / 2), np.pi / 2 * np.cos(np.pi * t / 2)

        def distribution(z: tuple, at: float) -> float:
            return at ** (n - z.count(MASK)) * (1 - at) ** z.count(MASK) * states[z]

        kinetic = 0.0
        for z, y in itertools.permutations(states, 2):
            changed = [i for i in range(n) if z[i] != y[i]]
            if len(changed) == 1 and z[changed[0]] is MASK:
                flux = distribution(z, alpha) * rate / (1 - alpha) * states[y] / states[z]
                kinetic += flux**2 / (distribution(z, alpha) * distribution(y, alpha))
        step = 1e-6
        speeds = {
            z: rate * (distribution(z, alpha + step) - distribution(z, alpha - step)) / (2 * step) for z in states
        }
        return kinetic, sum(speed**2 / distribution(z, alpha) for z, speed in speeds.items())

    # Not from 0, where both integrals diverge; over the same interval, the energy is the third one.
    part, _ = integrate.quad(lambda t: densities(t)[0], 0.05, 0.95)
    other, _ = integrate.quad(lambda t: densities(t)[1], 0.05, 0.95)
    scale, _ = integrate.quad(
        lambda t: (np.pi / 2 * np.cos(np.pi * t / 2)) ** 2 / (np.sin(np.pi * t / 2) * (1 - np.sin(np.pi * t / 2))),
        0.05,
        0.95,
    )
    assert part / scale == pytest.approx(kinetic_constant(sequences), rel=1e-6)
    assert other / scale == pytest.approx(n, rel=1e-6)


def test_states_follow_the_process():
    """Probabilities sum to one at every time, the rates generate their change, and they match plain loops."""
    sequences, probabilities = random_distribution(3, 3, 9, seed=1)
    states = MaskedStates.of(sequences, probabilities)
    loops = enumerate_states(sequences, probabilities)
    assert sorted(states.probability.tolist()) == pytest.approx(sorted(loops.values()))
    schedule, t = BetaSchedule(0.9, 0.4), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    distribution = states.distribution_t(schedule, t)
    torch.testing.assert_close(distribution.sum(1), torch.ones_like(t))
    flux = distribution[:, states.source] * states.rates_t(schedule, t)
    change = torch.zeros_like(distribution).index_add(1, states.target, flux).index_add(1, states.source, -flux)
    torch.testing.assert_close(change, states.dalpha_distribution_t(schedule, t))
    nearby = (states.distribution_t(schedule, t + 1e-6) - states.distribution_t(schedule, t - 1e-6)) / 2e-6
    torch.testing.assert_close(change, nearby, rtol=1e-5, atol=1e-7)
