"""Learning-rate schedules, weight-decay groups, and the moving average of the weights."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.errors import UserError
from mdm_lightning.training.datamodule import accumulation
from mdm_lightning.training.ema import CURRENT_WEIGHTS, ExponentialMovingAverage
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.optimizer import AdamW, Constant, Cosine, Linear


@pytest.mark.parametrize(
    "schedule", [Constant(warmup_steps=10), Cosine(100, warmup_steps=10), Linear(100, warmup_steps=10, decay=0.2)]
)
def test_warm_up_is_linear_and_ends_at_the_peak(schedule):
    steps = [schedule(step) for step in range(11)]
    assert steps[0] > 0
    assert all(b - a == pytest.approx(1 / 11) for a, b in pairwise(steps[:10]))
    assert steps[10] == pytest.approx(1)
    assert all(0 <= schedule(step) <= 1 for step in range(200))


def test_decays_end_where_they_say():
    assert Cosine(100, warmup_steps=10, final=0.1)(100) == pytest.approx(0.1)
    assert Cosine(100, warmup_steps=10)(55) == pytest.approx(0.5)
    stable = Linear(100, warmup_steps=10, decay=0.2, final=0.2)
    assert stable(79) == stable(40) == 1
    assert stable(90) == pytest.approx(0.6)
    assert stable(100) == stable(1000) == pytest.approx(0.2)
    assert Linear(100, decay=1)(50) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_a_warm_up_longer_than_training_is_refused(kind):
    with pytest.raises(UserError, match="warmup_steps"):
        kind(10, warmup_steps=11)


def test_only_matrices_decay():
    model = DiT(20, 8, hidden_size=16, depth=1, heads=2, cond_dim=4)
    optimizer = AdamW(weight_decay=0.1)(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert decayed | plain == set(names.values())
    assert "blocks.0.attn_qkv.weight" in decayed
    assert {"vocab_embed.embedding", "blocks.0.norm1.weight", "blocks.0.mlp.0.bias"} <= plain


def test_the_fused_step_is_the_plain_one():
    """AdamW as Loshchilov & Hutter write it, in float64, for a few steps of both groups."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    lr, (b1, b2), eps, decay = 1e-2, (0.9, 0.95), 1e-8, 0.1
    optimizer = AdamW(lr, (b1, b2), eps, decay)(model)
    assert optimizer.defaults["fused"]
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in expected.items()} for _ in range(2))
    for step in range(1, 6):
        for name, p in model.named_parameters():
            g = p.grad = torch.randn_like(p)
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g**2
            update = first[name] / (1 - b1**step) / ((second[name] / (1 - b2**step)).sqrt() + eps)
            expected[name] = expected[name] * (1 - lr * decay * (p.ndim >= 2)) - lr * update
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_the_recursion(warmup):
    model = nn.Linear(3, 2).double()
    ema = ExponentialMovingAverage(0.95, warmup=warmup)
    ema.average = [p.detach().clone() for p in model.parameters()]
    expected = model.weight.detach().clone()
    for n in range(1, 200):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64))
        ema.update(model)
        decay = min(0.95, (1 + n) / (10 + n)) if warmup else 0.95
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.average[0], expected)


def test_a_restored_average_goes_to_the_device_of_the_weights():
    """Some strategies move the weights after the callbacks have read the checkpoint, others before."""
    denoiser = DiT(5, 4, hidden_size=8, depth=1, heads=1)
    module = MaskedDiffusion(denoiser, AdamW(), Constant())
    stored = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), global_step=3)
    ema = ExponentialMovingAverage(0.9)
    ema.on_load_checkpoint(trainer, module, {"state_dict": stored, CURRENT_WEIGHTS: module.state_dict()})
    assert ema.average is not None
    assert all((average == 0).all() for average in ema.average)
    module.to("meta")
    ema.on_train_start(trainer, module)
    assert {average.device.type for average in ema.average} == {"meta"}


def test_averaged_weights_are_borrowed_and_given_back():
    model = nn.Linear(3, 2)
    ema = ExponentialMovingAverage(0.9)
    ema.average = [torch.zeros_like(p) for p in model.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    with ema.averaged(model):
        assert all((p == 0).all() for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_accumulation_divides_or_is_refused():
    assert accumulation(512, 32, 8) == 2
    for bad in ((512, 30, 1), (512, 32, 3), (16, 32, 1), (0, 1, 1), (8, 0, 1)):
        with pytest.raises(UserError, match="global_batch_size"):
            accumulation(*bad)
