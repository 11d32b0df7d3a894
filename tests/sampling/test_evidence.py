"""What predictions say about positions, against the formulas in float64."""

import pytest
import torch

from mdm_lightning.sampling.evidence import confidence, entropy, largest_probability, log_confidence, margin


def logits(spread: float, dtype: torch.dtype) -> torch.Tensor:
    drawn = torch.randn(64, 50_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread
    drawn[:32, 7] = torch.linspace(15, 60, 32)  # ever surer
    return drawn.to(dtype)


@pytest.mark.parametrize("spread", [0.1, 3.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_evidence(spread, dtype):
    """Of the logits as they are, to the stated rounding, for tokens likely and unlikely."""
    given = logits(spread, dtype)
    exact = given.double().log_softmax(1)
    for tokens in (given.argmax(1), torch.arange(64) % 9):
        expected = exact.gather(1, tokens[:, None]).squeeze(1)
        torch.testing.assert_close(log_confidence(given, tokens), expected, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(confidence(given, tokens), expected.exp(), rtol=5e-6, atol=0)
    two = exact.exp().topk(2, dim=1).values
    torch.testing.assert_close(largest_probability(given), two[:, 0], rtol=5e-6, atol=0)
    torch.testing.assert_close(margin(given), two[:, 0] - two[:, 1], rtol=5e-6, atol=1e-12)
    torch.testing.assert_close(entropy(given), -(exact.exp() * exact).nansum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confidences_near_one_stay_apart(dtype):
    """1 - 1e-9 and 1 - 1e-12 are one number in float32; a threshold or an order has to know which is which."""
    doubt = torch.tensor([1e-6, 1e-9, 1e-12], dtype=torch.float64)
    given = torch.zeros(3, 1000, dtype=torch.float64)
    given[:, 1:] = (doubt / 999).log()[:, None]
    found = 1 - confidence(given.to(dtype), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(found, doubt, rtol=1e-3, atol=1e-15)


def test_one_token_only():
    assert margin(torch.zeros(2, 1)).tolist() == [1.0, 1.0]
    assert confidence(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1])).tolist() == [0.0]
