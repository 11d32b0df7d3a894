"""The sampler's own likelihood of a data set against enumeration, sampling, and what it predicts of accuracy."""

import dataclasses
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from mdm_lightning.data.source import Verdict
from mdm_lightning.data.tasks.toy import Distribution
from mdm_lightning.denoiser.base import NoDistribution
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.masking import StepMasking
from mdm_lightning.diffusion.schedule import BetaSchedule, LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.evaluation.base import Row, Subject
from mdm_lightning.evaluation.description import describe_sampler
from mdm_lightning.evaluation.generation.task import TaskAccuracy
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.paper.exact_distribution import ExactSampler
from mdm_lightning.sampling.blocks import Blocks
from mdm_lightning.sampling.count import Binomial, EntropyBounded, Expected, FirstHitting, ProbabilityThreshold
from mdm_lightning.sampling.order import Confidence, Entropy, LeftToRight, Margin, MaxProbability, Random
from mdm_lightning.sampling.remask import RemaskCapped
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.spaced import Dilated, Spaced
from mdm_lightning.sampling.tokens import TokenSampler
from tests.sampling.toys import FLAWS, Broken, TinyDenoiser, random_distribution

from .corpora import Rows, Shown, text_subject

LATE, EARLY = BetaSchedule(0.9, 0.3), BetaSchedule(0.3, 0.9)
GREEDY = TokenSampler(temperature=0.0)
LENGTH = 4


def subject_of(sequences: list[list[int]], seed: int = 3) -> Subject:
    """Given validation sequences of the tokens 0, 1 and 2; the denoiser is some network."""
    subject = text_subject(["a"], ["a"])
    assert subject.tokenizer.vocab_size == 3
    data = replace(subject.data, validation=Rows(np.array(sequences)), length=LENGTH)
    return replace(subject, denoiser=TinyDenoiser(3, LENGTH, seed=3), length=LENGTH, prepare=lambda: data, seed=seed)


EVERYTHING = [list(x) for x in itertools.product(range(3), repeat=LENGTH)]


def short(value: object) -> str:
    """What tells samplers apart."""
    if not isinstance(value, Sampler):
        return str(value)
    return " ".join(map(str, describe_sampler(value).values()))


def measure(sampler: Sampler, subject: Subject, **options: int) -> dict[str, Row]:
    return {row.metric: row for row in Likelihood(Policy(sampler), **options)(subject)}


def nats(rows: dict[str, Row]) -> np.ndarray:
    """Of each sequence."""
    return LENGTH * np.array(rows["policy_nats_per_token"].scores)


EXACT = [
    Sampler(LATE, Expected(), Entropy(), steps=2),
    Sampler(LATE, Expected(), LeftToRight(), steps=3),
    Sampler(EARLY, Expected(), Dilated(), steps=2),
    Sampler(LATE, EntropyBounded(0.5), Entropy()),
    Sampler(LATE, ProbabilityThreshold(0.6), MaxProbability(), blocks=Blocks(2)),
    Sampler(LinearSchedule(), Expected(), Margin(), TokenSampler(0.7, top_p=0.8), steps=2),
    Sampler(LinearSchedule(), Expected(), Confidence(), GREEDY, steps=2),
]


@pytest.mark.parametrize("sampler", EXACT, ids=short)
@pytest.mark.parametrize("batch_size", [7, 100])
def test_an_exact_likelihood_sums_to_one_over_all_sequences(sampler, batch_size):
    rows = measure(sampler, subject_of(EVERYTHING), draws=3, batch_size=batch_size)
    assert np.exp(-nats(rows)).sum() == pytest.approx(1, abs=1e-10)
    row = rows["policy_nats_per_token"]
    assert row.settings["likelihood"] == "exact"
    assert "draws" not in row.settings
    assert rows["policy_perplexity"].value == pytest.approx(math.exp(row.value) if row.value < 700 else math.inf)


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        (Sampler(LATE, Expected(), Random(), steps=2), "bound: mean over random orders or counts"),
        (Sampler(LATE, Expected(), Spaced(), steps=2), "bound: mean over random orders or counts"),
        (Sampler(LATE, Binomial(), Margin(), steps=2), "bound: mean over random orders or counts"),
        (Sampler(LATE, Expected(), Confidence(), steps=2), "bound: one path of several"),
    ],
    ids=short,
)
def test_bounds_are_called_bounds(sampler, kind):
    rows = measure(sampler, subject_of(EVERYTHING))
    assert {row.settings["likelihood"] for row in rows.values()} == {kind}


def test_one_position_at_a_time_an_exact_denoiser_costs_the_datas_own_probability():
    """In any order."""
    target = random_distribution(LENGTH, 3, seed=1)
    subject = replace(
        subject_of([list(x) for x in target]), denoiser=ExactDenoiser(list(target), list(target.values()))
    )
    for order in (Random(), Entropy(), Spaced(), MaxProbability()):
        rows = measure(Sampler(LATE, FirstHitting(), order), subject)
        assert nats(rows) == pytest.approx(-np.log(list(target.values())), rel=1e-6)
        assert rows["forward_passes"].value == LENGTH


@pytest.mark.parametrize("count", [Binomial(), Expected()])
def test_random_order_has_the_k_step_nelbo_and_the_samplers_probabilities(count):
    """Over 3,000 keys per sequence: the mean cost is that of estimator=k_step, and the mean probability that of the
    enumerated output; five standard errors."""
    steps, sequences = 2, [[0, 1, 2, 0]] * 3_000
    sampler = Sampler(LinearSchedule(), count, Random(), steps=steps)
    subject = subject_of(sequences)
    task = Named([0, 1, 2, 0])
    rows = measure(sampler, replace(subject, task=task))
    accuracy = rows["predicted_accuracy"]
    everything = Distribution(EVERYTHING, [1 / len(EVERYTHING)] * len(EVERYTHING), 3)
    law = ExactSampler(everything, subject.denoiser).distribution(LinearSchedule(), steps, count)
    exact = law[EVERYTHING.index([0, 1, 2, 0])]
    assert abs(accuracy.value - exact) < 5 * (accuracy.stderr or 0)
    cost = rows["policy_nats_per_token"]
    assert cost.value * LENGTH > -math.log(exact)
    if isinstance(count, Binomial):
        k_step = Likelihood(StepMasking(LinearSchedule(), StratifiedTimes(), steps), draws=4)(subject)
        bound = next(row for row in k_step if row.metric == "nelbo_nats_per_token")
        assert abs(cost.value - bound.value) < 5 * math.hypot(cost.stderr or 0, bound.stderr or 0)


def test_draws_average_over_keys():
    """The first draw has the noise of generating; the error shrinks as it should, within what 200 sequences can say."""
    subject = subject_of([[0, 1, 2, 0]] * 200)
    sampler = Sampler(LinearSchedule(), Expected(), Random(), steps=2)
    one, many = (nats(measure(sampler, subject, draws=draws)) for draws in (1, 16))
    assert one.std() > 1e-3
    assert many.std() == pytest.approx(one.std() / 4, rel=0.35)
    assert abs(one.mean() - many.mean()) < 5 * one.std() / math.sqrt(200)
    assert measure(sampler, subject, draws=16)["forward_passes"].value == 2


@dataclasses.dataclass
class Named:
    """Exactly one response is right."""

    answer: list[int]
    prompt_length: int = 0

    def check(self, tokens):
        return Verdict(valid=True, correct=tokens.tolist() == self.answer)


class Prompted(Rows):
    """Of sequence i, one position is given, another one for each."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        batch["maskable"] = batch["maskable"].clone()
        for row, index in enumerate(indices):
            batch["maskable"][row, index % LENGTH] = False
        return batch


class Recovered:
    """Right is the sequence that the prompt was taken from."""

    prompt_length = 0

    def __init__(self, sequences: list[list[int]]) -> None:
        self.sequences = iter(sequences)

    def check(self, tokens):
        return Verdict(valid=True, correct=tokens.tolist() == next(self.sequences))


def prompted(sequences: list[list[int]]) -> Subject:
    subject = subject_of(sequences)
    data = replace(subject.data, validation=Prompted(np.array(sequences)))
    return replace(subject, prepare=lambda: data, task=Recovered(sequences), prompted=True)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(LATE, Expected(), Confidence(), GREEDY, steps=2),
        Sampler(EARLY, Expected(), Random(), GREEDY, steps=2),
        Sampler(LATE, EntropyBounded(0.5), Margin(), GREEDY, blocks=Blocks(2)),
        Sampler(LATE, FirstHitting(), Spaced(), GREEDY),
    ],
    ids=short,
)
def test_greedy_accuracy_is_predicted_without_an_error(sampler):
    """Problem by problem, prompts in the middle of the sequence: the walk is right where the sampler is."""
    predicted = measure(sampler, prompted(EVERYTHING))["predicted_accuracy"]
    measured = next(iter(TaskAccuracy(sampler)(prompted(EVERYTHING))))
    assert measured.metric == "accuracy"
    assert predicted.scores == measured.scores
    assert 0 < predicted.value < 1
    assert predicted.stderr == pytest.approx(measured.stderr, rel=0.05)


def test_at_temperature_one_probability_takes_the_place_of_chance():
    """Over 81 problems, 30 times each: the same accuracy within five standard errors, from scores of less variance."""
    sequences = EVERYTHING * 30
    sampler = Sampler(LATE, Expected(), Entropy(), steps=2)
    predicted = measure(sampler, prompted(sequences))["predicted_accuracy"]
    measured = next(iter(TaskAccuracy(sampler)(prompted(sequences))))
    assert abs(predicted.value - measured.value) < 5 * (measured.stderr or 0)
    assert (predicted.stderr or 0) < 0.6 * (measured.stderr or 0)


class OnlyFirst(Rows):
    """The first position is given."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        batch["maskable"] = batch["maskable"].clone()
        batch["maskable"][:, 0] = False
        return batch


def test_given_positions_cost_nothing():
    """Given the first position, the probabilities of all completions sum to one."""
    subject = subject_of(EVERYTHING[:27])
    data = replace(subject.data, validation=OnlyFirst(np.array(EVERYTHING[:27])))
    rows = measure(Sampler(LATE, Expected(), Entropy(), steps=2), replace(subject, prepare=lambda: data))
    cost = 3 * np.array(rows["policy_nats_per_token"].scores)
    assert np.exp(-cost).sum() == pytest.approx(1, abs=1e-10)


def test_impossible_sequences_are_counted():
    subject = subject_of(EVERYTHING)
    rows = measure(Sampler(LATE, Expected(), Entropy(), TokenSampler(top_k=2), steps=2), subject)
    row = rows["policy_nats_per_token"]
    zeros = sum(map(math.isinf, row.scores or []))
    assert zeros == 81 - 2**4
    assert row.value == rows["policy_perplexity"].value == math.inf
    assert row.settings["probability_zero"] == "65 of 81 sequences"
    assert isinstance(subject.outputs, Shown)
    assert subject.outputs.texts["probability zero"] == "65 of 81 sequences are never generated by this sampler"
    possible = measure(Sampler(LATE, Expected(), Entropy(), steps=2), subject_of(EVERYTHING))
    assert "probability_zero" not in possible["policy_nats_per_token"].settings


def test_up_to_the_first_eos():
    """What of the cost falls on the answer: with a position at a time from left to right, its own probability."""
    subject = subject_of(EVERYTHING)
    end = 2
    data = replace(subject.data, answer_end=end)
    rows = measure(Sampler(LATE, FirstHitting(), LeftToRight()), replace(subject, prepare=lambda: data))
    ended = rows["policy_nats_per_token_to_first_eos"]
    lengths = np.array([x.index(end) + 1 if end in x else LENGTH for x in EVERYTHING])
    cost = np.array(ended.scores) * lengths.mean()
    answers = {tuple(x[:n]): c for x, n, c in zip(EVERYTHING, lengths, cost, strict=True)}
    assert sum(math.exp(-c) for c in answers.values()) == pytest.approx(1, abs=1e-10)


def test_what_has_no_likelihood_is_refused_in_one_line():
    for sampler in (
        Sampler(LATE, RemaskCapped(0.1), Random(), steps=2),
        Sampler(LATE, Expected(), Confidence(noise=4.5), steps=2),
    ):
        with pytest.raises(ValueError, match=r"^walk: [^\n]+$"):
            Policy(sampler)


def test_logits_that_are_no_distribution_stop_it():
    for flaw in FLAWS:
        subject = subject_of(EVERYTHING[:5])
        subject.denoiser = Broken(subject.denoiser, flaw, position=3, beginning=3)
        with pytest.raises(NoDistribution, match="position 3 of sequence 0"):
            measure(Sampler(LATE, Expected(), Entropy(), steps=2), subject)
