"""Attention that opens during training."""

from types import SimpleNamespace

import pytest
import torch

from mdm_lightning.denoiser.attention import BlockCausal, Causal, Full, Opening
from mdm_lightning.errors import UserError
from mdm_lightning.training.annealing import AttentionAnnealing

LENGTH = 64
AT = torch.arange(LENGTH)[None]
BATCH = SimpleNamespace(tokens=torch.zeros(2, LENGTH), clean=None)


def seen(final, step: int, steps: int = 10, seed: int = 0) -> torch.Tensor:
    """Which positions read which in the training step after ``step`` others."""
    from mdm_lightning.denoiser.dit import DiT

    denoiser = DiT(5, LENGTH, hidden_size=4, depth=1, heads=1, cond_dim=2, attention=final)
    trainer, module = SimpleNamespace(global_step=step), SimpleNamespace(denoiser=denoiser)
    annealing = AttentionAnnealing(steps, seed, max_steps=20)
    annealing.setup(trainer, module, "fit")
    annealing.on_train_batch_start(trainer, module, BATCH, 0)
    pattern = denoiser.attention.reads(AT, AT)
    annealing.on_validation_start(trainer, module)
    assert denoiser.attention is final
    return torch.ones(LENGTH, LENGTH, dtype=torch.bool) if pattern is None else pattern[0]


@pytest.mark.parametrize("final", [Full(), BlockCausal(16), Causal()], ids=str)
def test_it_opens_from_causal_to_the_models_own(final):
    """Never less than causal attention, never more than the model's own; as much of the rest as it is time for."""
    causal = Causal().reads(AT, AT)[0]
    own = final.reads(AT, AT)
    own = torch.ones_like(causal) if own is None else own[0]
    ahead = own & ~causal
    for step in range(12):
        now = seen(final, step)
        assert bool(now[causal].all())
        assert not bool((now & ~own).any())
        if ahead.any():
            share = min(1, (step + 1) / 10)
            assert float(now[ahead].double().mean()) == pytest.approx(share, abs=0.08)
    assert torch.equal(seen(final, 9), own)


def test_the_places_are_a_function_of_seed_and_step():
    assert torch.equal(seen(Full(), 4), seen(Full(), 4))
    assert not torch.equal(seen(Full(), 4), seen(Full(), 4, seed=1))
    assert not torch.equal(seen(Full(), 4, steps=10), seen(Full(), 9, steps=20))  # the same share, of another step


def test_places_are_counted_without_padding():
    pattern = Opening(Full(), torch.eye(LENGTH, dtype=torch.bool).roll(1, dims=1))  # each reads one ahead
    some = torch.tensor([[3, 7, 8]])
    expected = [[True, False, False], [True, True, True], [True, True, True]]
    assert pattern.reads(some, some)[0].tolist() == expected


def test_it_must_come_to_an_end():
    with pytest.raises(UserError, match=r"training.attention_annealing=30 is beyond trainer.max_steps=20"):
        seen(Full(), 0, steps=30)


def test_blocks_beside_their_clean_context_are_refused():
    annealing = AttentionAnnealing(10, 0, max_steps=20)
    batch = SimpleNamespace(tokens=BATCH.tokens, clean=BATCH.tokens)
    with pytest.raises(UserError, match="attention_annealing= is not for blockwise masks"):
        annealing.on_train_batch_start(SimpleNamespace(global_step=0), None, batch, 0)
