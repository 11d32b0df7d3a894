"""Likelihood of a text given a context: exact where it can be, unbiased elsewhere, the same in any company."""

import itertools
import math

import pytest
import torch

from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.denoiser.base import Denoiser, NoDistribution
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.likelihood.conditional import Bound, Conditional, ConditionalLikelihood, windows
from tests.sampling.toys import FLAWS, Broken, exact, random_distribution

VOCABULARY = Tokenizer(from_characters("abcdefg"))


def subject(denoiser: Denoiser, seed: int = 0) -> Subject:
    def no_data():
        raise AssertionError("a likelihood of given texts needs no data")

    return Subject(denoiser.eval(), VOCABULARY, denoiser.length, no_data, seed=seed)


@pytest.fixture(scope="module")
def network() -> DiT:
    """A random network: its conditionals belong to no distribution, so that every set of masks counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiT(VOCABULARY.vocab_size, 24, hidden_size=16, depth=2, heads=2, cond_dim=4)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def plain_bound(model: Denoiser, context: list[int], target: list[int]) -> float:
    """The definition, one set of masks and one sequence at a time."""
    n, total = len(target), 0.0
    for k in range(1, n + 1):
        sums = []
        for chosen in itertools.combinations(range(n), k):
            tokens = [*context, *(model.mask_id if i in chosen else token for i, token in enumerate(target))]
            with torch.no_grad():
                log_p = model.head(model(torch.tensor([tokens]))[0]).double().log_softmax(-1)
            sums.append(-sum(float(log_p[len(context) + i, target[i]]) for i in chosen))
        total += n / k * sum(sums) / len(sums) / n
    return total


@pytest.mark.parametrize("split", [0, 1, 3, 4])
def test_an_exact_denoiser_gives_the_distributions_own_conditionals(split):
    """-log p(y | x) for every text and every place to cut it."""
    distribution = random_distribution(5, 2, seed=1)
    requests = [Conditional(state[:split], state[split:], 7) for state in distribution]
    bounds = ConditionalLikelihood(draws=31)(subject(exact(distribution)), requests)
    for state, bound in zip(distribution, bounds, strict=True):
        given = sum(p for other, p in distribution.items() if other[:split] == state[:split])
        assert bound.nats == pytest.approx(-math.log(distribution[state] / given), rel=1e-5, abs=1e-6)
        assert bound.stderr == 0


def test_short_targets_are_gone_through_completely(network):
    requests = [Conditional([1, 2, 3][:m], [4, 0, 5, 6][:n], 3) for m in range(4) for n in range(1, 5)]
    bounds = ConditionalLikelihood(draws=15, batch_size=7)(subject(network), requests)
    for request, bound in zip(requests, bounds, strict=True):
        assert bound.nats == pytest.approx(plain_bound(network, [*request.context], [*request.target]), rel=1e-5)
        assert bound.stderr == 0


def test_random_masks_are_unbiased_and_know_their_error(network):
    """The mean over 400 keys within four of its standard errors (a false alarm in 16,000 runs). The stated error is
    that of independent draws: strata may only make it too large."""
    target = [4, 0, 5, 6, 1]
    requests = [Conditional([1, 2], target, key) for key in range(400)]
    bounds = ConditionalLikelihood(draws=6)(subject(network), requests)
    nats = torch.tensor([bound.nats for bound in bounds], dtype=torch.float64)
    expected = plain_bound(network, [1, 2], target)
    assert abs(float(nats.mean()) - expected) < 4 * float(nats.std()) / 20
    assert float(nats.std()) < 1.1 * math.sqrt(sum(bound.stderr**2 for bound in bounds) / 400)
    assert float(nats.std()) > 0


def mixed() -> list[Conditional]:
    generator = torch.Generator().manual_seed(5)
    sizes = [(0, 3), (9, 1), (4, 9), (0, 20), (2, 6), (17, 7), (4, 9)]
    draw = torch.randint(7, (24,), generator=generator).tolist()
    return [Conditional(draw[:m], draw[m : m + n], key) for key, (m, n) in enumerate(sizes)]


def close(a: list[Bound], b: list[Bound]) -> bool:
    return all(
        x.nats == pytest.approx(y.nats, rel=1e-5) and x.stderr == pytest.approx(y.stderr, rel=1e-3, abs=1e-6)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_company_of_a_request_does_not_matter(network, batch_size):
    """Neither the batch size, nor what else is asked, nor the order: padding is not seen."""
    likelihood, requests = ConditionalLikelihood(draws=20, batch_size=batch_size), mixed()
    alone = [ConditionalLikelihood(draws=20)(subject(network), [request])[0] for request in requests]
    assert close(likelihood(subject(network), requests), alone)
    assert close(likelihood(subject(network), requests[::-1]), alone[::-1])


def test_equal_requests_get_equal_masks_and_other_seeds_others(network):
    likelihood = ConditionalLikelihood(draws=20)
    once, again = (likelihood(subject(network), mixed()) for _ in range(2))
    other = likelihood(subject(network, seed=1), mixed())
    assert once == again
    assert [b.nats == c.nats for b, c in zip(once, other, strict=True)] == [len(r.target) < 5 for r in mixed()]


def test_one_forward_pass_for_one_token(network, monkeypatch):
    rows = []
    monkeypatch.setattr(
        network, "forward", lambda *inputs: rows.append(len(inputs[0])) or DiT.forward(network, *inputs)
    )
    ConditionalLikelihood(draws=128)(subject(network), [Conditional([1, 2], [3], 0), Conditional([1], [3, 4], 0)])
    assert sum(rows) == 1 + 3


@pytest.mark.parametrize(("context", "target"), [(0, 5), (3, 7), (20, 5), (20, 10), (0, 11), (4, 37), (50, 50)])
def test_windows_hold_every_target_once_after_what_came_before_it(context, target):
    """Each fits into the model; together they hold the target; each context is what stands in front, as far as fits."""
    text = list(range(context + target))
    parts = windows(text[:context], text[context:], 10, key=0)
    assert [token for part in parts for token in part.target] == text[context:]
    for part in parts:
        assert len(part.context) + len(part.target) <= 10
        first = part.target[0]
        assert list(part.context) == text[first - len(part.context) : first]
        assert len(part.context) == min(first, 10 - len(part.target))
    assert len(parts) == 1 or target > 9
    assert len({part.key for part in parts}) == len(parts)


@pytest.mark.parametrize("flaw", FLAWS)
def test_logits_that_are_no_distribution_stop_it(flaw, network):
    broken = Broken(network, flaw, position=2, beginning=4)
    requests = [Conditional([1, 2], [3, 4, 5], 0), Conditional([4, 1], [3, 5, 2], 1)]
    with pytest.raises(NoDistribution, match="position 2 of request 1"):
        ConditionalLikelihood(draws=8)(subject(broken), requests)
    assert len(ConditionalLikelihood(draws=8)(subject(broken), requests[:1])) == 1
