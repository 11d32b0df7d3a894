"""The sampler's own likelihood against enumeration of its output distribution, with denoisers that are not exact."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdm_lightning.denoiser.base import Denoiser, NoDistribution
from mdm_lightning.diffusion.profile.loss_profile import LossProfile
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.evaluation.description import describe
from mdm_lightning.sampling.adaptive_count import EarlyExit, EntropySum
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import (
    Binomial,
    ConfidenceThreshold,
    EntropyBounded,
    Expected,
    FirstHitting,
    LargestRemainder,
    ProbabilityThreshold,
)
from mdm_lightning.sampling.evidence import Candidates, confidence
from mdm_lightning.sampling.guidance import Guidance
from mdm_lightning.sampling.noise import SequenceNoise
from mdm_lightning.sampling.order import (
    Confidence,
    Entropy,
    GumbelTopK,
    LeftToRight,
    Margin,
    MaxProbability,
    PredictedOrder,
    Random,
)
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.sizes import AscendingSizes, DilatedSizes, ShareOfRemaining
from mdm_lightning.sampling.spaced import Dilated, MinimumDistance, Spaced
from mdm_lightning.sampling.tokens import TokenSampler
from mdm_lightning.sampling.walk import Kind, kind_of_walk, walk

from .toys import (
    EXTREMES,
    Broken,
    Distribution,
    State,
    TinyDenoiser,
    as_states,
    conditionals,
    exact,
    noise,
    p_value,
    random_distribution,
)


class MostLikelyLast(PredictedOrder):
    """Somebody's own order, which looks at drawn tokens."""

    reads_tokens = True

    def priority(self, candidates: Candidates) -> torch.Tensor:
        return -confidence(candidates.logits, candidates.tokens)


LENGTH, TOKENS = 4, 3
GREEDY = TokenSampler(temperature=0.0)
DENOISER = TinyDenoiser(TOKENS, LENGTH, seed=3)
EARLY, LATE = BetaSchedule(0.3, 0.9), BetaSchedule(0.9, 0.3)

Score = Callable[[np.ndarray], float]
"""Of a position, from its probabilities; the highest goes first."""

SCORES: dict[str, Score] = {
    "margin": lambda p: float(np.sort(p)[-1] - np.sort(p)[-2]),
    "entropy": lambda p: float((p * np.log(p)).sum()),
    "largest": lambda p: float(p.max()),
}


def everything(start: State) -> torch.Tensor:
    """All sequences that agree with a canvas."""
    choices = [range(TOKENS) if x == TOKENS else [x] for x in start]
    return torch.tensor(list(itertools.product(*choices)))


def likelihoods(sampler: Sampler, start: State, denoiser: Denoiser = DENOISER, **keywords) -> Distribution:
    """exp(-cost) of all sequences, whose keys are those of one sequence."""
    sequences = everything(start)
    generated = (torch.tensor(start) == TOKENS).expand(len(sequences), -1)
    walked = walk(sampler, denoiser, sequences, generated, SequenceNoise(5, [7] * len(sequences)), **keywords)
    assert (walked.nats[~generated] == 0).all()
    assert walked.greedy[~generated].all()
    return dict(zip(as_states(sequences), walked.cost.neg().exp().tolist(), strict=True))


def paths(start: State, score: Score | None, counts: list[int]) -> Distribution:
    """The output distribution of a value-blind policy by plain enumeration; without a score, from left to right."""
    distribution = {start: 1.0}
    for count in counts:
        following: Distribution = {}
        for state, mass in distribution.items():
            table = conditionals(DENOISER, [state])[state]
            masked = [i for i, x in enumerate(state) if x == TOKENS]
            ranked = masked if score is None else sorted(masked, key=lambda i: (-score(table[i]), i))
            for tokens in itertools.product(range(TOKENS), repeat=count):
                reached, p = list(state), mass
                for place, token in zip(ranked[:count], tokens, strict=True):
                    reached[place] = token
                    p *= table[place][token]
                following[tuple(reached)] = following.get(tuple(reached), 0) + p
        distribution = following
    return distribution


@pytest.mark.parametrize("start", [(3, 3, 3, 3), (3, 1, 3, 3)])
@pytest.mark.parametrize("schedule", [LinearSchedule(), EARLY, LATE])
@pytest.mark.parametrize("count", [Expected(), LargestRemainder()])
@pytest.mark.parametrize(
    ("order", "score"),
    [
        (LeftToRight(), None),
        (Margin(), SCORES["margin"]),
        (Entropy(), SCORES["entropy"]),
        (MaxProbability(), SCORES["largest"]),
    ],
)
def test_value_blind_orders_are_exact(start, schedule, count, order, score):
    sampler = Sampler(schedule, count, order, steps=3)
    counts = count.counts(schedule, 3, start.count(TOKENS)).tolist()
    distribution = paths(start, score, counts)
    found = likelihoods(sampler, start)
    assert kind_of_walk(sampler) is Kind.EXACT
    assert found.keys() == distribution.keys()
    assert max(abs(found[x] - distribution[x]) for x in distribution) < 1e-10


def samplers() -> Iterator[Sampler]:
    """Of every other kind that is value-blind."""
    yield Sampler(LATE, FirstHitting(), Margin())
    yield Sampler(LATE, EntropyBounded(0.8), Entropy())
    yield Sampler(LATE, EntropyBounded(0.8), LeftToRight(), steps=2)
    yield Sampler(EARLY, Expected(), Entropy(), blocks=Blocks(2), steps=4)
    yield Sampler(EARLY, EntropyBounded(0.8), Margin(), blocks=Blocks(3), steps=3)
    yield Sampler(EARLY, Expected(), Margin(), guidance=Guidance(0.7), steps=2)
    for tokens in (TokenSampler(0.5), TokenSampler(1.7, top_k=2), TokenSampler(top_p=0.8), TokenSampler(banned=[1])):
        yield Sampler(LinearSchedule(), Expected(), Margin(), tokens, steps=2)
    yield Sampler(LinearSchedule(), Expected(), Confidence(), TokenSampler(0.0), steps=2)
    yield Sampler(LATE, ShareOfRemaining(), Entropy(), TokenSampler(1.5, top_k=2), steps=3, tempered_evidence=True)
    yield Sampler(LinearSchedule(), ConfidenceThreshold(0.5), Confidence(), TokenSampler(0.0))
    yield Sampler(LinearSchedule(), ProbabilityThreshold(0.5), MaxProbability())
    yield Sampler(LinearSchedule(), EntropySum(1.0), Dilated())
    yield Sampler(LinearSchedule(), EarlyExit(high=2.0), MaxProbability())
    yield Sampler(LATE, AscendingSizes(), Dilated())
    yield Sampler(LATE, Expected(), Random(), steps=3)
    yield Sampler(LATE, Binomial(), Random(), steps=3)
    yield Sampler(LATE, Binomial(), Margin(), steps=3)
    yield Sampler(LATE, DilatedSizes(), Spaced())
    yield Sampler(LATE, Expected(), MinimumDistance(2), steps=2)
    yield Sampler(LATE, EntropyBounded(0.8), Spaced(), blocks=Blocks(2))


@pytest.mark.parametrize("start", [(3, 3, 3, 3), (3, 1, 3, 3)])
@pytest.mark.parametrize("sampler", samplers(), ids=str)
def test_probabilities_sum_to_one_and_samples_follow_them(start, sampler):
    """Given the keys, where there are any. Each chi-square test at level 1e-4."""
    distribution = likelihoods(sampler, start)
    assert sum(distribution.values()) == pytest.approx(1, abs=1e-10)
    if kind_of_walk(sampler) is Kind.EXACT and sampler.tokens.temperature > 0:
        canvas = torch.tensor(start).repeat(4_000, 1)
        samples = as_states(sampler(DENOISER, canvas, noise(4_000, seed=1)).tokens)
        assert p_value(samples, distribution) > 1e-4


def test_at_temperature_zero_the_output_is_what_walks_greedily():
    sampler = Sampler(LinearSchedule(), Expected(), Confidence(), TokenSampler(0.0), steps=2)
    sequences = everything((3, 3, 3, 3))
    generated = torch.ones_like(sequences, dtype=torch.bool)
    walked = walk(sampler, DENOISER, sequences, generated, noise(len(sequences)))
    output = sampler(DENOISER, torch.full((1, LENGTH), TOKENS), noise(1)).tokens
    reproduced = sequences[walked.greedy.all(1)]
    assert reproduced.tolist() == output.tolist()
    assert walked.cost.isfinite().tolist() == walked.greedy.all(1).tolist()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_confidence_at_temperature_zero_is_the_highest_probability(steps):
    """With planned counts and with thresholds: the same tokens in the same steps."""
    denoiser = TinyDenoiser(length=12)
    canvas = torch.full((20, 12), denoiser.mask_id)
    canvas[:, ::4] = torch.arange(20)[:, None] % 7
    pairs = [
        (Sampler(LATE, Expected(), Confidence(), GREEDY, steps=steps), MaxProbability(), None),
        (Sampler(LATE, ConfidenceThreshold(0.3), Confidence(), GREEDY), MaxProbability(), ProbabilityThreshold(0.3)),
    ]
    for sampler, order, count in pairs:
        other = replace(sampler, order=order, count=count or sampler.count)
        one, two = (s(denoiser, canvas, noise(20)) for s in (sampler, other))
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.revealed_at, two.revealed_at)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(LATE, Binomial(), LeftToRight(), steps=2),
        Sampler(LATE, Expected(), Spaced(), steps=2),
        Sampler(LATE, EntropyBounded(0.8), Random()),
    ],
    ids=str,
)
def test_where_there_is_chance_the_samplers_law_is_the_mean_over_keys(sampler):
    """Of exp(-cost), over 4,000 keys, against the share of 4,000 samples with other keys: five standard errors of the
    difference, for the three sequences that come most often."""
    keys = 4_000
    samples = as_states(sampler(DENOISER, torch.full((keys, LENGTH), TOKENS), noise(keys, seed=2)).tokens)
    counts = {x: samples.count(x) for x in set(samples)}
    assert kind_of_walk(sampler) is Kind.KEYS
    for x in sorted(counts, key=lambda x: -counts[x])[:3]:
        repeated = torch.tensor([x] * keys)
        given = torch.ones_like(repeated, dtype=torch.bool)
        chances = walk(sampler, DENOISER, repeated, given, noise(keys, seed=3)).cost.neg().exp()
        mean, share = float(chances.mean()), counts[x] / keys
        error = math.sqrt((float(chances.var()) + share * (1 - share)) / keys)
        assert abs(mean - share) < 5 * error


def test_the_mean_over_keys_is_the_k_step_nelbo():
    """For an exact denoiser, within five standard errors of the profile's sum."""
    target = random_distribution(3, 2, seed=8)
    denoiser, profile = exact(target), LossProfile.from_distribution(list(target), list(target.values()))
    drawn = np.random.default_rng(0).choice(len(target), 20_000, p=list(target.values()))
    sequences = torch.tensor(list(target))[drawn]
    generated = torch.ones_like(sequences, dtype=torch.bool)
    for count in (Binomial(), Expected()):
        sampler = Sampler(LATE, count, Random(), steps=2)
        cost = walk(sampler, denoiser, sequences, generated, noise(len(sequences))).cost
        expected = (
            profile.nelbo(LATE, 2) if isinstance(count, Binomial) else profile.nelbo_of_counts(count.counts(LATE, 2, 3))
        )
        assert abs(float(cost.mean()) - expected.value) < 5 * float(cost.std()) / math.sqrt(len(cost))
        assert kind_of_walk(sampler) is Kind.KEYS


def confident_paths(start: State, counts: list[int]) -> tuple[Distribution, Distribution]:
    """For LLaDA's order at temperature 1, by enumeration of all draws: the output distribution, and for each sequence
    the probability of the path on which its own most confident tokens are revealed."""
    distribution, own = {start: 1.0}, {(start, x): 1.0 for x in as_states(everything(start))}
    for count in counts:
        kernel: dict[State, Distribution] = {}
        for state in {*distribution, *(state for state, _ in own)}:
            table = conditionals(DENOISER, [state])[state]
            masked = [i for i, x in enumerate(state) if x == TOKENS]
            reach: Distribution = {}
            for tokens in itertools.product(range(TOKENS), repeat=len(masked)):
                draw = dict(zip(masked, tokens, strict=True))
                first = sorted(masked, key=lambda i: (-table[i][draw[i]], i))[:count]
                reached = tuple(draw[i] if i in first else x for i, x in enumerate(state))
                reach[reached] = reach.get(reached, 0) + math.prod(table[i][draw[i]] for i in masked)
            kernel[state] = reach
        following: Distribution = {}
        for state, mass in distribution.items():
            for reached, p in kernel[state].items():
                following[reached] = following.get(reached, 0) + mass * p
        distribution, longer = following, {}
        for (state, x), mass in own.items():
            table = conditionals(DENOISER, [state])[state]
            masked = [i for i, y in enumerate(state) if y == TOKENS]
            first = sorted(masked, key=lambda i: (-table[i][x[i]], i))[:count]
            reached = tuple(x[i] if i in first else y for i, y in enumerate(state))
            longer[reached, x] = mass * kernel[state].get(reached, 0)
        own = longer
    return distribution, {x: p for (_, x), p in own.items()}


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_orders_that_read_drawn_tokens_have_a_bound(steps):
    sampler = Sampler(LinearSchedule(), LargestRemainder(), Confidence(), steps=steps)
    start = (TOKENS,) * LENGTH
    distribution, own = confident_paths(start, sampler.count.counts(LinearSchedule(), steps, LENGTH).tolist())
    found = likelihoods(sampler, start)
    assert kind_of_walk(sampler) is Kind.DRAWS
    for x, p in found.items():
        assert p == pytest.approx(own[x], abs=1e-12)
        assert p <= distribution[x] + 1e-12
    assert (sum(found.values()) < 1 - 1e-6) == (steps > 1)


@pytest.mark.parametrize("order", [Confidence(), Entropy()])
def test_tempered_evidence_is_that_of_a_tempered_denoiser(order):
    denoiser, sharper = TinyDenoiser(length=6), TinyDenoiser(length=6, sharpness=3.0 / 0.4)
    plain = Sampler(LinearSchedule(), LargestRemainder(), order, steps=3)
    tempered = replace(plain, tokens=TokenSampler(0.4), tempered_evidence=True)
    sequences = torch.randint(7, (20, 6), generator=torch.Generator().manual_seed(0))
    generated = torch.ones_like(sequences, dtype=torch.bool)
    assert kind_of_walk(tempered) is kind_of_walk(plain)
    found = walk(tempered, denoiser, sequences, generated, noise(20)).cost
    assert found.tolist() == pytest.approx(walk(plain, sharper, sequences, generated, noise(20)).cost.tolist())
    assert found.tolist() != pytest.approx(
        walk(replace(tempered, tempered_evidence=False), denoiser, sequences, generated, noise(20)).cost.tolist()
    )


def test_ties_rank_as_in_the_sampler():
    """All of a uniform denoiser's tokens are equally probable: the leftmost positions come first."""
    denoiser = exact(dict.fromkeys(itertools.product(range(TOKENS), repeat=LENGTH), 1 / TOKENS**LENGTH))
    sampler = Sampler(LinearSchedule(), Expected(), Confidence(), steps=2)
    distribution = likelihoods(sampler, (TOKENS,) * LENGTH, denoiser)
    assert distribution == pytest.approx(dict.fromkeys(distribution, TOKENS**-LENGTH))


def test_padding_and_batches_change_nothing():
    sampler = Sampler(LinearSchedule(), Expected(), Entropy(), steps=2)
    sequences = everything((3, 3, 3, 3))[30:36]
    padding = torch.tensor([[False] * (LENGTH - row % 3) + [True] * (row % 3) for row in range(6)])
    other = sequences.masked_fill(padding, 2)
    together = walk(sampler, DENOISER, sequences, ~padding, noise(6), padding=padding)
    for row in range(6):
        one = slice(row, row + 1)
        alone = walk(sampler, DENOISER, other[one], ~padding[one], SequenceNoise(0, [row]), padding=padding[one])
        assert float(alone.cost) == pytest.approx(float(together.cost[row]), abs=1e-12)
        assert alone.revealed_at.tolist() == together.revealed_at[one].tolist()
    assert together.sequence_nfe.tolist() == [2] * 6


def test_impossible_sequences_cost_infinitely_much():
    denoiser = exact({tuple(x): 0.5 for x in EXTREMES})
    sequences = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
    generated = torch.ones_like(sequences, dtype=torch.bool)
    cost = walk(Sampler(LATE, FirstHitting(), LeftToRight()), denoiser, sequences, generated, noise(2)).cost
    assert cost.tolist() == pytest.approx([math.log(2), math.inf])


@pytest.mark.parametrize("flaw", ["NaN", "+inf", "nothing finite"])
def test_predictions_that_are_none_stop_a_walk(flaw):
    broken = Broken(DENOISER, flaw, position=2, beginning=TOKENS)
    sequences = everything((3, 3, 3, 3))[:2]
    generated = torch.ones_like(sequences, dtype=torch.bool)
    with pytest.raises(NoDistribution, match="position 2 of sequence 0"):
        walk(Sampler(LATE, Expected(), Entropy(), steps=2), broken, sequences, generated, noise(2))


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(LATE, RemaskCapped(0.1), Random(), steps=2),
        Sampler(LATE, Expected(), Confidence(noise=4.5), steps=2),
        Sampler(LATE, Expected(), GumbelTopK(Entropy(), 0.3), TokenSampler(temperature=0.0), steps=2),
        Sampler(LATE, Expected(), MostLikelyLast(), steps=2),
        Sampler(LATE, ConfidenceThreshold(0.5), Confidence()),
        Sampler(LATE, ConfidenceThreshold(0.5), Margin()),
    ],
    ids=lambda sampler: f"{describe(sampler.count)}, {describe(sampler.order)}",
)
def test_what_has_no_likelihood_is_refused(sampler):
    sequences = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="walk: "):
        walk(sampler, DENOISER, sequences, sequences == 0, noise(1))
