"""Muon for matrices beside AdamW: what moves how, and going on from a stored state."""

import copy
import os

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LambdaLR

from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.denoiser.lora import LoRA
from mdm_lightning.training.muon import Muon
from mdm_lightning.training.optimizer import AdamW
from tests.forkserver import run_side_by_side


@pytest.fixture
def model() -> DiT:
    torch.manual_seed(0)
    return DiT(20, 8, hidden_size=16, depth=2, heads=2, cond_dim=4)


def fill_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_matrices_of_blocks_take_orthogonal_steps_and_the_rest_those_of_adamw(model):
    other, before = copy.deepcopy(model), weights(model)
    numbers = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    muon, adamw = Muon(**numbers)(model), AdamW(**numbers)(other)
    fill_gradients(model, 0)
    fill_gradients(other, 0)
    muon.step()
    adamw.step()
    expected = weights(other)
    hidden = {f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("attn_qkv", "attn_out", "mlp.0", "mlp.2")}
    for name, p in weights(model).items():
        if name not in hidden:
            assert torch.equal(p, expected[name]), name
            continue
        update = p - (1 - 1e-2 * 0.1) * before[name]
        singular = torch.linalg.svdvals(update) / (1e-2 * 0.2 * max(update.shape) ** 0.5)
        assert 0.6 < singular.median() <= singular.max() < 1.3, name  # five iterations leave the smallest behind


def test_a_stored_state_goes_on_to_the_last_bit(model):
    whole = Muon(lr=1e-2)(model)
    for step in range(3):
        fill_gradients(model, step)
        whole.step()
    again = copy.deepcopy(model)
    resumed = Muon(lr=1.0)(again)  # the stored learning rate comes with the state
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for step in range(3, 6):
        for net, optimizer in ((model, whole), (again, resumed)):
            fill_gradients(net, step)
            optimizer.step()
    for name, p in weights(model).items():
        assert torch.equal(p, weights(again)[name]), name
    assert resumed.state_dict()["param_groups"] == whole.state_dict()["param_groups"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_schedule_reaches_both(model, stored):
    optimizer = Muon(lr=1e-2)(model)
    if stored:
        optimizer.load_state_dict(optimizer.state_dict())
    LambdaLR(optimizer, lambda step: 0.0)
    before = weights(model)
    fill_gradients(model, 0)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in weights(model).items())


def test_frozen_weights_stay_and_adapters_move(model):
    LoRA(rank=2).inject(model)
    before = weights(model)
    optimizer = Muon(lr=1e-2)(model)
    fill_gradients(model, 0)
    optimizer.step()
    moved = {name for name, p in weights(model).items() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_closure_is_called_once_with_gradients(model):
    calls = []

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        fill_gradients(model, 0)
        return torch.tensor(7.0)

    with torch.no_grad():
        assert Muon()(model).step(closure) == 7
    assert calls == [True]


def test_a_model_without_blocks_is_trained_by_adamw_and_a_line_says_so(caplog):
    optimizer = Muon(lr=1e-2)(nn.Linear(3, 2))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert "AdamW trains all" in caplog.text


def test_a_momentum_of_one_is_refused():
    with pytest.raises(ValueError, match="momentum"):
        Muon(momentum=1.0)


def train(model: nn.Module) -> None:
    """Three steps with gradients that depend on nothing but the step."""
    optimizer = Muon(lr=1e-2, weight_decay=0.1)(model)
    for step in range(3):
        fill_gradients(model, step)
        for p in model.parameters():
            if isinstance(p, DTensor):
                assert p.grad is not None
                p.grad = distribute_tensor(p.grad, p.device_mesh, p.placements)
        optimizer.step()


def train_sharded(model: nn.Module, rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    train(model)
    torch.save({name: p.full_tensor() for name, p in weights(model).items()}, f"{folder}/{rank}")
    distributed.barrier()
    os._exit(0)  # the first to leave would take the connections of the others with it


@pytest.mark.ddp
def test_matrices_split_over_processes_take_the_steps_of_whole_ones(model, tmp_path):
    """By three processes, which hold unequal numbers of rows, and one of which has no matrix to make orthogonal."""
    run_side_by_side(train_sharded, [(model, rank, 3, str(tmp_path)) for rank in range(3)])
    train(model)
    for rank in range(3):
        sharded = torch.load(tmp_path / str(rank))
        for name, p in weights(model).items():
            torch.testing.assert_close(sharded[name], p, rtol=0, atol=1e-6, msg=name)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
def test_steps_are_those_of_torch(model):
    other, before = copy.deepcopy(model), weights(model)
    hidden = {name: p for name, p in other.named_parameters() if name.startswith("blocks.0.mlp") and p.ndim == 2}
    theirs = torch.optim.Muon(list(hidden.values()), 1e-2, 0.1, 0.95, adjust_lr_fn="match_rms_adamw")
    ours = Muon(lr=1e-2, weight_decay=0.1, momentum=0.95)(model)
    for step in range(3):
        for net, optimizer in ((model, ours), (other, theirs)):
            fill_gradients(net, step)
            optimizer.step()
    for name, p in hidden.items():
        difference = (weights(model)[name] - p).norm() / (p - before[name]).norm()
        assert difference < 0.02, name  # theirs are rounded to bfloat16
