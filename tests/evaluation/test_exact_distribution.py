"""The exact distribution of the sampler's output: against the paper's table, enumeration, samples, and the bound by the
gap."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from mdm_lightning.data.tasks.toy import Balanced, Distribution, balanced, extremes
from mdm_lightning.denoiser.base import Denoiser, NoDistribution
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import (
    BetaSchedule,
    LinearSchedule,
    MaskSchedule,
    PolynomialSchedule,
    SineSchedule,
    TabulatedSchedule,
)
from mdm_lightning.evaluation.base import NotApplicable, Subject
from mdm_lightning.evaluation.paper.exact_distribution import (
    ExactDistribution,
    ExactSampler,
    divergence,
    total_variation,
)
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Binomial, EntropyBounded, Expected, FirstHitting, LargestRemainder
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import Confidence, Random
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.tokens import TokenSampler
from tests.diffusion.tables import random_denoiser
from tests.sampling.toys import FLAWS, Broken

TOYS = {"extremes": extremes(), "balanced": balanced()}
GRID = [BetaSchedule(float(a), float(b)) for a in np.linspace(0.1, 2, 15) for b in np.linspace(0.1, 2, 15)]


@pytest.fixture(scope="module")
def samplers() -> dict[str, ExactSampler]:
    return {name: ExactSampler(distribution) for name, distribution in TOYS.items()}


def random_distribution(n: int, d: int, size: int, seed: int) -> Distribution:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(d**n, size, replace=False)
    everything = list(itertools.product(range(d), repeat=n))
    return Distribution([everything[i] for i in chosen], rng.dirichlet(np.ones(size)).tolist(), d)


def small_network(distribution: Distribution, seed: int = 0) -> DiT:
    torch.manual_seed(seed)
    network = DiT(distribution.vocab_size, distribution.length, hidden_size=16, depth=1, heads=2, cond_dim=8).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def conditional(distribution: Distribution, state: tuple, position: int) -> np.ndarray:
    """p(x_i | unmasked tokens) by summation; MASK is None; uniform in impossible contexts."""
    table = np.zeros(distribution.vocab_size)
    for x, p in zip(distribution.sequences, distribution.probabilities, strict=True):
        if all(known in (None, token) for known, token in zip(state, x, strict=True)):
            table[x[position]] += p
    return table / table.sum() if table.sum() > 0 else np.full(distribution.vocab_size, 1 / distribution.vocab_size)


def enumerated(distribution: Distribution, steps: list, chance) -> dict[tuple, float]:
    """The output distribution in plain loops: at each step every subset of the masked positions with a given
    probability."""
    mass = {(None,) * distribution.length: 1.0}
    for step in steps:
        following: dict[tuple, float] = {}
        for state, probability in mass.items():
            masked = [i for i, token in enumerate(state) if token is None]
            for size in range(len(masked) + 1):
                for subset in itertools.combinations(masked, size):
                    weight = probability * chance(step, len(masked), size)
                    if weight == 0:
                        continue
                    tables = [conditional(distribution, state, i) for i in subset]
                    for tokens in itertools.product(range(distribution.vocab_size), repeat=size):
                        reached = list(state)
                        for i, token in zip(subset, tokens, strict=True):
                            reached[i] = token
                        factor = math.prod(table[token] for table, token in zip(tables, tokens, strict=True))
                        following[tuple(reached)] = following.get(tuple(reached), 0) + weight * factor
        mass = following
    return mass


def independent(rate: float, masked: int, revealed: int) -> float:
    return rate**revealed * (1 - rate) ** (masked - revealed)


def exactly(count: int, masked: int, revealed: int) -> float:
    return (revealed == count) / math.comb(masked, revealed)


@pytest.mark.parametrize(
    ("name", "alpha", "beta", "variation", "kl"),
    [
        ("extremes", 0.5, 0.5, 0.405093, 0.519350),
        ("extremes", 1.0, 1.0, 0.388184, 0.491323),
        ("extremes", 0.9, 0.3, 0.386691, 0.488886),
        ("balanced", 0.5, 0.5, 0.116913, 0.124332),
        ("balanced", 0.9, 0.3, 0.291018, 0.343924),
        ("balanced", 0.3, 0.9, 0.185520, 0.205205),
    ],
)
def test_the_papers_toys(samplers, name, alpha, beta, variation, kl):
    sampler = samplers[name]
    distribution = sampler.distribution(BetaSchedule(alpha, beta), 3, Binomial())
    assert total_variation(sampler.target, distribution) == pytest.approx(variation, abs=1e-6)
    assert divergence(sampler.target, distribution) == pytest.approx(kl, abs=1e-6)


LAWS = [
    random_distribution(3, 2, 5, seed=0),
    random_distribution(2, 4, 6, seed=1),
    random_distribution(4, 2, 4, seed=2),
    random_distribution(3, 3, 27, seed=3),
]


@pytest.mark.parametrize(
    "distribution",
    LAWS,
    ids=lambda distribution: f"{distribution.length}-{distribution.vocab_size}-{len(distribution.sequences)}",
)
@pytest.mark.parametrize(
    "schedule", [BetaSchedule(0.9, 0.3), PolynomialSchedule(0.7), TabulatedSchedule([0, 0.4, 0.4, 1])]
)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_against_plain_enumeration(distribution, schedule, steps):
    sampler = ExactSampler(distribution)
    alphas = [0.0, *schedule.alpha_t(torch.arange(1, steps).double() / steps).tolist(), 1.0]
    rates = [(b - a) / (1 - a) for a, b in itertools.pairwise(alphas)]
    counts = np.diff(np.round(distribution.length * np.array(alphas)).astype(int)).tolist()
    for found, loops in (
        (sampler.distribution(schedule, steps, Binomial()), enumerated(distribution, rates, independent)),
        (sampler.distribution(schedule, steps, Expected()), enumerated(distribution, counts, exactly)),
        (sampler.distribution_of_counts(counts), enumerated(distribution, counts, exactly)),
    ):
        expected = [loops.get(tuple(x), 0.0) for x in sampler.sequences.tolist()]
        assert found == pytest.approx(expected, abs=1e-12)
        assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("count", [Binomial(), Expected(), LargestRemainder(), FirstHitting()])
def test_the_sampler_follows_it(count):
    """Also with a network for a denoiser. Chi-square tests at level 1e-4."""
    distribution, schedule, draws = random_distribution(4, 3, 9, seed=4), SineSchedule(), 20_000
    network = small_network(distribution)
    exact = ExactSampler(distribution, network)
    canvas = torch.full((draws, 4), network.mask_id)
    tokens = Sampler(schedule, count, Random())(network, canvas, SequenceNoise(0, range(draws)), steps=3).tokens
    observed = np.bincount((tokens.numpy() * [27, 9, 3, 1]).sum(1), minlength=81)
    expected = exact.distribution(schedule, 3, count) * draws
    rare = expected < 5
    groups = [np.append(x[~rare], x[rare].sum()) for x in (observed, expected)]
    assert stats.chisquare(groups[0][groups[1] > 0], groups[1][groups[1] > 0]).pvalue > 1e-4


def test_one_position_per_step_is_exact(samplers):
    for sampler in samplers.values():
        distribution = sampler.distribution(LinearSchedule(), 5, Expected())
        assert distribution == pytest.approx(sampler.target, abs=1e-12)
        assert distribution == pytest.approx(sampler.distribution(BetaSchedule(0.9, 0.3), 2, FirstHitting()), abs=1e-12)
        many = sampler.distribution(LinearSchedule(), 3000, Binomial())
        assert total_variation(sampler.target, many) < 2e-3


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_gap_bounds_the_divergence_and_ranks_schedules(samplers, name, steps):
    """For an exact denoiser KL(data || sampler) <= gap_K, on the whole grid, and the two order schedules alike."""
    distribution, sampler = TOYS[name], samplers[name]
    profile = LossProfile.from_distribution(distribution.sequences, distribution.probabilities)
    gaps = [profile.gap(schedule, steps).value for schedule in GRID]
    divergences = [divergence(sampler.target, sampler.distribution(schedule, steps, Binomial())) for schedule in GRID]
    assert all(kl <= gap for kl, gap in zip(divergences, gaps, strict=True))
    assert stats.spearmanr(gaps, divergences).statistic >= 0.94


@pytest.mark.parametrize(
    "distribution",
    [*TOYS.values(), *LAWS],
    ids=lambda distribution: f"{distribution.name}-{distribution.length}-{distribution.vocab_size}",
)
def test_the_gap_of_counts_bounds_the_divergence(distribution):
    sampler, profile = (
        ExactSampler(distribution),
        LossProfile.from_distribution(distribution.sequences, distribution.probabilities),
    )
    for counts in itertools.product(range(distribution.length + 1), repeat=3):
        if sum(counts) == distribution.length:
            kl = divergence(sampler.target, sampler.distribution_of_counts(list(counts)))
            assert kl <= profile.gap_of_counts(counts).value + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_for_any_denoiser(seed):
    """The K-step NELBO of random logits exceeds their K-step sampler's cross-entropy with the data.

    At K = 1 they are equal, so the logits are a table: a network's would round differently in other batches.
    """
    distribution = random_distribution(3, 3, 6, seed)
    denoiser = random_denoiser(3, 3, seed)
    sampler, values = ExactSampler(distribution, denoiser), np.zeros(3)
    for x, p in zip(distribution.sequences, distribution.probabilities, strict=True):
        for mask in itertools.product((False, True), repeat=3):
            if any(mask):
                tokens = torch.tensor([[denoiser.mask_id if m else token for token, m in zip(x, mask, strict=True)]])
                log_p = denoiser(tokens)[0].detach().double().log_softmax(-1)
                nats = -log_p[range(3), x][list(mask)].mean()
                values[3 - sum(mask)] += p * float(nats) / math.comb(3, sum(mask))
    profile = LossProfile(3, range(3), values)
    schedules: list[MaskSchedule] = [LinearSchedule(), SineSchedule(), *GRID[::40]]
    for schedule, steps in itertools.product(schedules, (1, 2, 4)):
        log_distribution = np.log(sampler.distribution(schedule, steps, Binomial()))
        cross_entropy = -float(sampler.target @ log_distribution)
        bound = profile.nelbo(schedule, steps).value
        assert cross_entropy <= bound + 1e-9
        assert steps > 1 or cross_entropy == pytest.approx(bound)


def test_distances():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    assert total_variation(p, q) == 0.25
    assert divergence(p, q) == pytest.approx(0.5 * math.log(2))
    assert divergence(q, p) == math.inf, "p misses a part of q"
    assert divergence(p, p) == total_variation(p, p) == 0


def test_impossible_contexts_are_uniform():
    """Revealing both positions of a correlated pair at once leads nowhere; a third position then knows nothing."""
    distribution = Distribution.uniform([(0, 0, 0), (1, 1, 1)], 2)
    result = ExactSampler(distribution).distribution_of_counts([2, 1])
    assert result == pytest.approx([1 / 4, 1 / 12, 1 / 12, 1 / 12, 1 / 12, 1 / 12, 1 / 12, 1 / 4])


def test_what_is_refused(samplers):
    with pytest.raises(ValueError, match=r"extremes has .* 3\^9"):
        ExactSampler(extremes(9))
    with pytest.raises(ValueError, match="2 tokens, not 3"):
        ExactSampler(extremes(), small_network(random_distribution(5, 3, 2, seed=0)))
    with pytest.raises(ValueError, match="masks positions again"):
        samplers["extremes"].distribution(LinearSchedule(), 3, RemaskCapped(0.1))
    for counts in ([2, 2], [6, -1]):
        with pytest.raises(ValueError, match="sum to 5"):
            samplers["extremes"].distribution_of_counts(counts)
    with pytest.raises(ValueError, match="steps"):
        samplers["extremes"].distribution(LinearSchedule(), 0, Binomial())


def toy_subject(denoiser: Denoiser | None = None, distribution: Distribution | None = TOYS["balanced"]) -> Subject:
    source = Balanced(length=5, train=1, validation=1, seed=0)
    exact = ExactDenoiser(source.distribution.sequences, source.distribution.probabilities, 2)
    return Subject(
        denoiser or exact, source.tokenizer, 5, lambda: source.prepare(None, Path()), distribution=distribution
    )


ANCESTRAL = Sampler(BetaSchedule(0.9, 0.3), Binomial(), Random(), steps=3)


def test_as_an_evaluation(samplers):
    tv, kl = ExactDistribution(ANCESTRAL)(toy_subject())
    assert (tv.metric, tv.better, tv.n, tv.stderr, tv.scores) == ("tv", "lower", 32, None, None)
    assert (tv.value, kl.value) == pytest.approx((0.291018, 0.343924), abs=1e-6)
    assert kl.settings == {
        "data": "balanced", "schedule": "Beta(0.9, 0.3)", "count": "Binomial", "order": "Random", "steps": 3,
    }  # fmt: skip
    distribution = samplers["balanced"].distribution(BetaSchedule(0.9, 0.3), 5, Expected())
    _, kl = ExactDistribution(replace(ANCESTRAL, count=Expected(), steps=None))(toy_subject())
    assert kl.value == pytest.approx(divergence(samplers["balanced"].target, distribution), abs=1e-12)


def test_as_an_evaluation_of_a_network():
    network = small_network(TOYS["balanced"])
    expected = ExactSampler(TOYS["balanced"], network)
    tv, _ = ExactDistribution(ANCESTRAL)(toy_subject(network))
    assert tv.value == total_variation(expected.target, expected.distribution(ANCESTRAL.schedule, 3, Binomial()))


def test_compositions_are_enumerated_once_per_subject():
    class Counted(ExactDenoiser):
        calls = 0

        def forward(self, tokens, alpha=None, padding=None):
            self.calls += 1
            return super().forward(tokens, alpha, padding)

    denoiser = Counted(TOYS["balanced"].sequences, vocab_size=2)
    subject = toy_subject(denoiser)
    for steps in (1, 2, 3):
        assert len(list(ExactDistribution(replace(ANCESTRAL, steps=steps))(subject))) == 2
    assert denoiser.calls == 1


@pytest.mark.parametrize(
    "sampler",
    [
        replace(ANCESTRAL, order=Confidence()),
        replace(ANCESTRAL, count=RemaskCapped(0.1)),
        replace(ANCESTRAL, count=EntropyBounded(0.1)),
        replace(ANCESTRAL, tokens=TokenSampler(temperature=0.5)),
        replace(ANCESTRAL, blocks=Blocks(2)),
        replace(ANCESTRAL, guidance=Guidance(1.0)),
    ],
)
def test_samplers_that_are_not_enumerated(sampler):
    with pytest.raises(NotApplicable, match="enumerates order=random"):
        next(iter(ExactDistribution(sampler)(toy_subject())))


def test_data_without_a_distribution():
    with pytest.raises(NotApplicable, match="needs a distribution"):
        next(iter(ExactDistribution(ANCESTRAL)(toy_subject(distribution=None))))


@pytest.mark.parametrize("flaw", FLAWS)
def test_logits_that_are_no_distribution_have_no_distribution(flaw):
    distribution = balanced()
    with pytest.raises(NoDistribution, match="position 2 of the partly masked sequence"):
        ExactSampler(distribution, Broken(small_network(distribution), flaw, position=2, beginning=0))
