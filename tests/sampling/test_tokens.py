import math

import pytest
import torch

from mdm_lightning.sampling.tokens import PIECE, TokenSampler, inverse_cdf, most_probable

from .toys import p_value

LAST = 1 - 2**-53  # the largest quantile there is


def random_logits(rows: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(points: int) -> torch.Tensor:
    return (torch.arange(points, dtype=torch.float64) + 0.5) / points


def induced_distribution(sampler: TokenSampler, logits: torch.Tensor, points: int = 20_000) -> torch.Tensor:
    """Share of an even grid of quantiles that draws each token: the probabilities to within 1 / points."""
    tokens = sampler.draw(sampler.suppress(logits.expand(points, -1)), grid(points))
    return torch.bincount(tokens, minlength=logits.shape[-1]) / points


def test_the_token_is_the_inverse_cdf_at_the_quantile():
    logits, quantiles = random_logits(500, 11), grid(500)
    cumulative = logits.softmax(1).cumsum(1)
    for token, row, v in zip(inverse_cdf(logits, quantiles), cumulative, quantiles, strict=True):
        assert row[token] > v - 1e-12
        assert token == 0 or row[token - 1] <= v + 1e-12


def test_draws_follow_the_probabilities():
    # Level 1e-4.
    logits = random_logits(1, 6).expand(20_000, -1)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    distribution = {(token,): p for token, p in enumerate(logits[0].softmax(0).tolist())}
    assert p_value([(token,) for token in inverse_cdf(logits, uniform).tolist()], distribution) > 1e-4


@pytest.mark.parametrize("v", [0.0, 2**-53, 0.5, LAST])
@pytest.mark.parametrize("possible", [[0], [4], [2], [0, 4], [1, 3]])
def test_tokens_of_probability_zero_are_never_drawn(v, possible):
    logits = torch.full((1, 5), -math.inf, dtype=torch.float64)
    logits[0, possible] = 0
    token = int(inverse_cdf(logits, torch.tensor([v], dtype=torch.float64)))
    assert token == possible[0 if v < 0.5 else -1]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_extreme_quantiles_stay_within_the_vocabulary(scale):
    logits = scale * random_logits(2000, 37)
    for v in (0.0, LAST):
        tokens = inverse_cdf(logits, torch.full((2000,), v, dtype=torch.float64))
        assert (logits.softmax(1).gather(1, tokens[:, None]) > 0).all()


def test_temperature_divides_the_logits():
    logits = random_logits(1, 6)
    distribution = induced_distribution(TokenSampler(temperature=0.5), logits)
    torch.testing.assert_close(distribution, (logits[0] / 0.5).softmax(0).float(), atol=2e-4, rtol=0)


def test_temperature_zero_takes_the_first_most_probable_token():
    logits = torch.tensor([[1.0, 3.0, 3.0], [5.0, 0.0, 5.0]], dtype=torch.float64)
    assert TokenSampler(temperature=0.0).draw(logits, torch.tensor([0.9, 0.9]).double()).tolist() == [1, 0]


def plain_filter(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> list[float]:
    """Probabilities after top-k and top-p, token by token."""
    ranked = sorted(range(len(logits)), key=lambda token: -float(logits[token]))[:top_k]
    total = sum(math.exp(logits[token]) for token in ranked)
    kept, mass = [], 0.0
    for token in ranked:
        kept.append(token)
        mass += math.exp(logits[token]) / total
        if top_p is not None and mass >= top_p:
            break
    total = sum(math.exp(logits[token]) for token in kept)
    return [math.exp(logits[token]) / total if token in kept else 0.0 for token in range(len(logits))]


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(1, None), (3, None), (99, None), (None, 1e-9), (None, 0.5), (None, 0.99), (None, 1.0), (4, 0.6)],
)
def test_truncation_agrees_with_a_plain_implementation(top_k, top_p):
    for seed in range(5):
        logits = random_logits(1, 9, seed)
        distribution = induced_distribution(TokenSampler(top_k=top_k, top_p=top_p), logits)
        expected = torch.tensor(plain_filter(logits[0], top_k, top_p))
        torch.testing.assert_close(distribution, expected, atol=2e-4, rtol=0)
        assert (distribution[expected == 0] == 0).all()


def test_tokens_that_tie_with_the_last_one_kept_are_kept():
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    assert (induced_distribution(TokenSampler(top_k=2), logits) > 0).tolist() == [True, False, True, True]
    assert (induced_distribution(TokenSampler(top_p=0.1), logits) > 0).tolist() == [True, False, True, True]


def test_banned_tokens_are_never_drawn_and_the_rest_renormalised():
    logits = random_logits(1, 6)
    original = logits.clone()
    banned = [int(logits.argmax()), 0]
    distribution = induced_distribution(TokenSampler(banned=banned), logits)
    expected = logits[0].softmax(0).float().index_fill(0, torch.tensor(banned), 0)
    torch.testing.assert_close(distribution, expected / expected.sum(), atol=2e-4, rtol=0)
    assert torch.equal(logits, original)


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}],
)
def test_options_must_be_in_range(options):
    with pytest.raises(ValueError, match="TokenSampler"):
        TokenSampler(**options)


@pytest.mark.parametrize("banned", [[5], [-1], [0, 1, 2, 3, 4]])
def test_banned_tokens_must_leave_something_of_the_vocabulary(banned):
    with pytest.raises(ValueError, match="TokenSampler"):
        TokenSampler(banned=banned).check(5)


@pytest.mark.parametrize("vocabulary", [1, 5, PIECE, 2 * PIECE, 3 * PIECE + 7])
def test_the_most_probable_token_is_the_argmax(vocabulary):
    """The first of equals, also where the last piece of the vocabulary is a short one, and of NaN."""
    generator = torch.Generator().manual_seed(vocabulary)
    for scale in (0.5, 2.0):
        logits = torch.randn(200, vocabulary, generator=generator).mul(scale).round()  # many equals
        logits[::7, torch.randint(vocabulary, (), generator=generator)] = torch.nan
        logits[1::9] = -torch.inf
        logits[2::9, -1] = 100
        assert torch.equal(most_probable(logits), logits.argmax(1))
