"""Logits are the same whatever the number of rows that is multiplied."""

import pytest
import torch

from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.llama import Llama
from mdm_lightning.denoiser.output_matrix import ROWS_OF

LLAMA = {"hidden_size": 16, "depth": 1, "heads": 2, "key_value_heads": 2, "mlp_size": 8}
ROPE = {"rope_theta": 10_000.0, "norm_eps": 1e-5}


@pytest.fixture(
    params=[
        lambda: DiT(13, 8, hidden_size=16, depth=1, heads=2),
        lambda: DiT(13, 8, hidden_size=16, depth=1, heads=2, tie_weights=True),
        lambda: DiT(16, 8, hidden_size=16, depth=1, heads=2),
        lambda: Llama(13, 8, rows=14, mask_row=13, **LLAMA, **ROPE),
        lambda: Llama(13, 8, rows=64, mask_row=5, **LLAMA, **ROPE),
        lambda: Llama(13, 8, rows=14, mask_row=13, tie_weights=True, **LLAMA, **ROPE),
    ],
    ids=["dit", "tied", "even", "llama", "mask among the tokens", "tied llama"],
)
def denoiser(request) -> Denoiser:
    torch.manual_seed(0)
    model = request.param()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.double()


def test_rows_that_a_gpu_multiplies_besides_change_neither_logits_nor_gradients(denoiser, monkeypatch):
    hidden = torch.randn(7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(7) % 5

    def everything() -> list[torch.Tensor]:
        denoiser.zero_grad()
        denoiser.cross_entropy(hidden, targets).sum().backward()
        gradients = [p.grad.clone() for p in denoiser.parameters() if p.grad is not None]
        return [denoiser.head(hidden).detach(), *gradients]

    expected = everything()
    monkeypatch.setitem(ROWS_OF, "cpu", 16)
    for got, value in zip(everything(), expected, strict=True):
        torch.testing.assert_close(got, value)
    assert expected[0].shape == (7, denoiser.vocab_size)
