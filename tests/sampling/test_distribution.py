"""The sampler's output distribution against enumeration."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule, PolynomialSchedule
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Binomial, EntropyBounded, Expected, FirstHitting, LargestRemainder
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.order import Confidence, Entropy, LeftToRight, Margin, Random
from mdm_lightning.sampling.remask import RemaskCapped, RemaskRescaled
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler

from .toys import (
    BALANCED,
    EXTREMES,
    Distribution,
    State,
    ancestral_distribution,
    as_states,
    conditionals,
    exact,
    masks,
    noise,
    p_value,
    random_distribution,
    reverse_step,
)

TOY_TABLE = [
    (EXTREMES, 0.5, 0.5, 0.405093, 0.519350),
    (EXTREMES, 1.0, 1.0, 0.388184, 0.491323),
    (EXTREMES, 0.9, 0.3, 0.386691, 0.488886),
    (BALANCED, 0.5, 0.5, 0.116913, 0.124332),
    (BALANCED, 0.9, 0.3, 0.291018, 0.343924),
    (BALANCED, 0.3, 0.9, 0.185520, 0.205205),
]


@pytest.mark.parametrize(("target", "alpha", "beta", "variation", "divergence"), TOY_TABLE)
def test_the_distribution_of_three_steps_is_the_papers(target, alpha, beta, variation, divergence):
    """Figure 4 of the paper: n = 5, d = 2, K = 3; and the sampler's samples follow it, at level 1e-4."""
    denoiser, schedule = ExactDenoiser(target, vocab_size=2), BetaSchedule(alpha, beta)
    alphas = schedule.alpha_t(torch.linspace(0, 1, 4, dtype=torch.float64)).tolist()
    distribution = ancestral_distribution((2,) * 5, denoiser, [0.0, *alphas[1:-1], 1.0])
    truth = {tuple(x): 1 / len(target) for x in target}
    total = sum(abs(distribution.get(x, 0) - truth.get(x, 0)) for x in itertools.product((0, 1), repeat=5)) / 2
    kl = sum(p * np.log(p / distribution[x]) for x, p in truth.items())
    assert total == pytest.approx(variation, abs=1e-6)
    assert kl == pytest.approx(divergence, abs=1e-6)
    samples = Sampler(schedule, Binomial(), Random())(denoiser, masks(20_000, 5, denoiser), noise(20_000), steps=3)
    assert p_value(as_states(samples.tokens), distribution) > 1e-4


def test_binomial_in_random_order_is_the_exact_reverse_kernel():
    """The joint distribution of all states of a trajectory, from a canvas with a prompt, at level 1e-4."""
    distribution, schedule, steps = random_distribution(3, 2, seed=1), PolynomialSchedule(0.7), 3
    denoiser, batch = exact(distribution), 40_000
    start = (2, 1, 2)
    states = torch.tensor(start).repeat(steps + 1, batch, 1)

    def remember(step: int, tokens: torch.Tensor) -> None:
        states[step + 1 :] = tokens

    Sampler(schedule, Binomial(), Random())(denoiser, states[0].clone(), noise(batch), steps=steps, on_step=remember)
    alphas = schedule.alpha_t(torch.linspace(0, 1, steps + 1, dtype=torch.float64)).tolist()
    paths: Distribution = {start: 1.0}
    for now, following in itertools.pairwise(alphas):
        rate, longer = (following - now) / (1 - now), {}
        for path, mass in paths.items():
            for state, p in reverse_step({path[-3:]: 1.0}, denoiser, rate).items():
                longer[path + state] = mass * p
        paths = longer
    assert p_value(as_states(states.transpose(0, 1).flatten(1)), paths) > 1e-4


@pytest.mark.parametrize("count", [RemaskCapped(0.3), RemaskRescaled(0.6)])
def test_remasking_follows_its_reverse_kernel(count):
    """The distribution of the samples, whose predictions are made before anything is masked again. Level 1e-4."""
    denoiser, schedule, steps = exact(random_distribution(3, 2, seed=4)), LinearSchedule(), 4
    distribution = {(2, 2, 2): 1.0}
    for now, following in itertools.pairwise([0.0, 0.25, 0.5, 0.75, 1.0]):
        largest = min(1.0, (1 - following) / now) if now > 0 else 1.0
        sigma = min(0.3, largest) if isinstance(count, RemaskCapped) else 0.6 * largest
        distribution = reverse_step(distribution, denoiser, (following - (1 - sigma) * now) / (1 - now), sigma)
    samples = Sampler(schedule, count, Random())(denoiser, masks(20_000, 3, denoiser), noise(20_000), steps=steps)
    assert p_value(as_states(samples.tokens), distribution) > 1e-4


@pytest.mark.parametrize("order", [Random(), LeftToRight(), Margin(), Entropy()])
@pytest.mark.parametrize("count", [FirstHitting(), EntropyBounded(0.0), Expected()])
def test_one_token_per_step_samples_the_data_distribution_in_every_order(order, count):
    """With exact conditionals, whenever the order looks at distributions only. Each test at level 1e-4."""
    distribution = random_distribution(4, 3, seed=2)
    denoiser = exact(distribution)
    samples = Sampler(LinearSchedule(), count, order)(denoiser, masks(8_000, 4, denoiser), noise(8_000), steps=4)
    assert p_value(as_states(samples.tokens), distribution) > 1e-4
    assert samples.nfe == 4


def confident_distribution(denoiser: ExactDenoiser, state: tuple[int, ...], mass: float = 1.0) -> Distribution:
    """Output distribution of revealing, one at a time, the masked position whose freshly drawn token is most
    probable."""
    masked = [i for i, x in enumerate(state) if x == denoiser.mask_id]
    if not masked:
        return {state: mass}
    table, distribution = conditionals(denoiser, [state])[state], {}
    for tokens in itertools.product(range(denoiser.vocab_size), repeat=len(masked)):
        probability = [table[i][x] for i, x in zip(masked, tokens, strict=True)]
        best = int(np.argmax(probability))
        reached = list(state)
        reached[masked[best]] = tokens[best]
        for x, p in confident_distribution(denoiser, tuple(reached), mass * float(np.prod(probability))).items():
            distribution[x] = distribution.get(x, 0) + p
    return distribution


def test_confidence_draws_all_masked_tokens_anew_at_each_step():
    """LLaDA's semantic at temperature 1, which is not the data distribution. Level 1e-4."""
    distribution = random_distribution(3, 2, seed=3)
    denoiser = exact(distribution)
    sampler = Sampler(LinearSchedule(), FirstHitting(), Confidence(), TokenSampler())
    samples = as_states(sampler(denoiser, masks(20_000, 3, denoiser), noise(20_000)).tokens)
    assert p_value(samples, confident_distribution(denoiser, (2, 2, 2))) > 1e-4
    assert p_value(samples, distribution) < 1e-4


def test_a_context_of_probability_zero_is_uniform():
    denoiser = ExactDenoiser(EXTREMES)
    table = conditionals(denoiser, [(0, 1, 2, 2, 2), (0, 2, 2, 2, 2), (2, 2, 2, 2, 2)])
    np.testing.assert_allclose(table[0, 1, 2, 2, 2], 0.5)
    np.testing.assert_allclose(table[0, 2, 2, 2, 2], [[1, 0]] * 5)
    np.testing.assert_allclose(table[2, 2, 2, 2, 2], 0.5)


def test_exact_conditionals_sum_the_joint_distribution():
    distribution = random_distribution(4, 3, seed=5)
    denoiser = exact(distribution)
    table = conditionals(denoiser, [(1, 3, 3, 2)])[1, 3, 3, 2]
    fitting = {state: p for state, p in distribution.items() if state[0] == 1 and state[3] == 2}
    for token in range(3):
        expected = sum(p for state, p in fitting.items() if state[2] == token) / sum(fitting.values())
        assert table[2, token] == pytest.approx(expected)


@pytest.mark.parametrize(
    "arguments",
    [([[0, 2]], None, 2), ([[0, -1]],), ([0, 1],), ([[0, 1]], [0.0]), ([[0, 1]], [0.5, 0.5])],
)
def test_the_exact_denoiser_wants_a_distribution(arguments):
    with pytest.raises(ValueError, match="ExactDenoiser"):
        ExactDenoiser(*arguments)


class Timed(Denoiser):
    """Exact conditionals that are the flatter the lower alpha is; remembers what it was told at each forward pass."""

    def __init__(self, distribution: Distribution) -> None:
        self_of = exact(distribution)
        super().__init__(self_of.vocab_size, self_of.length)
        self.exact = self_of
        self.told: list[torch.Tensor] = []

    def forward(self, tokens, alpha=None, padding=None):
        self.told.append(alpha)
        logits = self.exact.head(self.exact(tokens).flatten(0, 1)).double().unflatten(0, tokens.shape)
        return logits.clamp(min=-50) * (0.2 + 2 * alpha.double()[:, None, None])

    def head(self, hidden):
        return hidden


class At(Timed):
    """The same network, told one alpha whatever it is told."""

    def __init__(self, distribution: Distribution, alpha: float) -> None:
        super().__init__(distribution)
        self.alpha = alpha

    def forward(self, tokens, alpha=None, padding=None):
        return super().forward(tokens, torch.full((len(tokens),), self.alpha, dtype=torch.float64))


def timed_distribution(
    start: State, distribution: Distribution, alphas: Sequence[float], told: Sequence[float]
) -> Distribution:
    """MDLM's ancestral sampler for a network that is told ``told`` at each step."""
    states = {start: 1.0}
    for (now, following), alpha in zip(itertools.pairwise(alphas), told, strict=True):
        states = reverse_step(states, At(distribution, alpha), (following - now) / (1 - now))
    return states


@pytest.mark.parametrize("start", [(2, 2, 2), (2, 1, 2)])
@pytest.mark.parametrize("schedule", [LinearSchedule(), BetaSchedule(0.9, 0.3)])
def test_a_time_conditioned_denoiser_is_told_the_schedules_time(schedule, start):
    """As MDLM's sampler tells it sigma(t): the distribution is that of its procedure, prompt or none. Samples at level
    1e-4."""
    distribution, steps = random_distribution(3, 2, seed=1), 3
    alphas = schedule.alpha_t(torch.linspace(0, 1, steps + 1, dtype=torch.float64)).tolist()
    alphas = [0.0, *alphas[1:-1], 1.0]
    denoiser = Timed(distribution)
    canvas = torch.tensor(start).repeat(20_000, 1)
    samples = Sampler(schedule, Binomial(), Random())(denoiser, canvas, noise(20_000), steps=steps)
    told = [set(alpha.tolist()) for alpha in denoiser.told]
    assert [len(values) for values in told] == [1] * steps
    expected = timed_distribution(start, distribution, alphas, alphas[:-1])
    actual = timed_distribution(start, distribution, alphas, [values.pop() for values in told])
    assert sum(abs(actual.get(x, 0) - p) for x, p in expected.items()) / 2 < 1e-7
    assert p_value(as_states(samples.tokens), expected) > 1e-4


def test_without_a_schedules_steps_a_denoiser_is_told_the_share_that_is_there():
    denoiser = Timed(random_distribution(4, 2, seed=1))
    canvas = torch.tensor([[1, 2, 2, 2]])
    Sampler(LinearSchedule(), FirstHitting(), Random())(denoiser, canvas, noise(1))
    assert torch.cat(denoiser.told).tolist() == [0.25, 0.5, 0.75]
    two_blocks = Sampler(LinearSchedule(), Expected(), Random(), blocks=Blocks(2))
    denoiser.told.clear()
    two_blocks(denoiser, masks(1, 4, denoiser), noise(1), steps=4)
    assert torch.cat(denoiser.told).tolist() == [0, 0.25, 0.5, 0.75]


def test_guidance_tells_both_passes_the_same_time():
    denoiser = Timed(random_distribution(3, 2, seed=1))
    sampler = Sampler(LinearSchedule(), LargestRemainder(), Confidence(), guidance=Guidance(0.5))
    sampler(denoiser, torch.tensor([[1, 2, 2]]), noise(1), steps=2)
    assert [alpha.tolist() for alpha in denoiser.told] == [[0, 0], [0.5, 0.5]]
