"""Blocks beside their clean context: one pass over two copies is a pass for each block, one after the other."""

import pytest
import torch

from mdm_lightning.denoiser.attention import BlockCausal, Causal, Full
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.blockwise import Blockwise
from mdm_lightning.diffusion.fitting import Fitting, fitted
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking, NextToken, seeded_generator
from mdm_lightning.diffusion.objective import nelbo
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.errors import UserError

from .test_attention import LENGTH, build, close, each_model, sequences

PROCESSES = [CountMasking(StratifiedTimes()), IndependentMasking(LinearSchedule(), StratifiedTimes())]
each_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


def corrupted(process, block: int, mask_id: int, prompt: int = 0):
    clean = sequences().clamp(max=mask_id - 1)
    maskable = torch.ones_like(clean, dtype=torch.bool)
    maskable[:, :prompt] = False
    return Blockwise(process, block)(clean, maskable, mask_id, seeded_generator(3)), clean


@torch.no_grad()
@each_model
@each_process
@pytest.mark.parametrize("block", [1, 4, 5, LENGTH])
def test_the_loss_is_that_of_one_block_after_the_other(make, process, block):
    """Each block by a pass of its own, with the blocks before it clean and nothing behind it."""
    model = build(make, BlockCausal(block))
    batch, clean = corrupted(process, block, model.mask_id, prompt=3)
    loss, weights = torch.zeros(batch.tokens.shape, dtype=torch.float64), torch.zeros(batch.tokens.shape)
    weights.view(-1)[batch.rows] = batch.weight
    for start in range(0, LENGTH, block):
        here = slice(start, min(start + block, LENGTH))
        canvas = torch.cat([clean[:, :start], batch.tokens[:, here]], dim=1)
        logits = model.head(model(canvas)[:, here].flatten(0, 1)).log_softmax(-1).unflatten(0, (len(clean), -1))
        loss[:, here] = -logits.gather(2, clean[:, here, None])[..., 0]
    expected = (loss * weights * (batch.tokens == model.mask_id)).sum(1)
    assert expected.min() > 1
    close(nelbo(model, batch).per_sequence, expected.float(), tolerance=1e-5)


@each_model
def test_the_fitting_bound_is_in_the_blocks_that_the_model_reads(make):
    whole = CountMasking(StratifiedTimes())
    fitting = Fitting(StratifiedTimes())
    assert fitted(fitting, build(make, BlockCausal(4))) == Blockwise(whole, 4)
    for pattern in (Full(), Causal()):
        assert fitted(fitting, build(make, pattern)) == whole


def test_a_model_that_looks_at_the_time_has_one_for_the_whole_sequence():
    model = DiT(9, 8, hidden_size=8, depth=1, heads=2, cond_dim=4, time_conditioning=True, attention=BlockCausal(4))
    assert fitted(Fitting(StratifiedTimes()), model) == CountMasking(StratifiedTimes())


@torch.no_grad()
@each_model
@pytest.mark.parametrize("place", ["left", "right"])
def test_padding_changes_nothing(make, place):
    model = build(make, BlockCausal(4))
    batch, clean = corrupted(PROCESSES[0], 4, model.mask_id)
    alone = model.beside_clean(batch.tokens, clean, 4)
    gap = torch.full((len(clean), 3), 7)
    padding = torch.zeros(len(clean), LENGTH + 3, dtype=torch.bool)
    hole = slice(0, 3) if place == "left" else slice(LENGTH, None)
    padding[:, hole] = True
    wide = [torch.cat([gap, x] if place == "left" else [x, gap], dim=1) for x in (batch.tokens, clean)]
    model.length = LENGTH + 3
    hidden = model.beside_clean(wide[0], wide[1], 4, padding)
    close(hidden[~padding], alone.flatten(0, 1))


@each_process
@pytest.mark.parametrize("block", [1, 4, 5])
def test_every_block_is_masked_as_a_sequence(process, block):
    """Its rows, targets and weights are those of the process; prompts and what is left of a block are never masked."""
    batch, clean = corrupted(process, block, 13, prompt=3)
    masked = batch.tokens == 13
    assert torch.equal(masked.flatten().nonzero().squeeze(1), batch.rows)
    assert torch.equal(clean.flatten()[batch.rows], batch.targets)
    assert torch.equal(batch.tokens[~masked], clean[~masked])
    assert not masked[:, :3].any()
    assert batch.lengths.tolist() == [LENGTH - 3] * 3
    if isinstance(process, CountMasking):  # a block of n positions weighs n, whatever was masked of it
        weights = torch.zeros(clean.shape)
        weights.view(-1)[batch.rows] = batch.weight
        for start in range(0, LENGTH, block):
            n = max(0, min(start + block, LENGTH) - max(start, 3))
            assert weights[:, start : start + block].sum(1).tolist() == pytest.approx([n] * 3)


@torch.no_grad()
@each_model
@pytest.mark.parametrize("attention", [Full(), Causal(), BlockCausal(3)], ids=str)
def test_the_model_must_read_in_the_same_blocks(make, attention):
    model = build(make, attention)
    batch, _ = corrupted(PROCESSES[0], 4, model.mask_id)
    with pytest.raises(UserError, match="blocks of 4"):
        nelbo(model, batch)


@pytest.mark.parametrize("process", [NextToken(), Blockwise(PROCESSES[0], 2)], ids=lambda p: type(p).__name__)
def test_processes_that_are_not_for_blocks_are_refused(process):
    """What masks nothing would show the answers."""
    with pytest.raises(ValueError, match="process must be one that masks whole sequences"):
        Blockwise(process, 4)


def test_gradients_are_those_of_one_block_after_the_other():
    from .test_attention import MODELS

    gradients = []
    for together in (True, False):
        model = build(MODELS["shifted Llama"], BlockCausal(4))
        batch, clean = corrupted(PROCESSES[0], 4, model.mask_id)
        hidden = model.beside_clean(batch.tokens, clean, 4)
        if not together:
            parts = [
                model(torch.cat([clean[:, :start], batch.tokens[:, start : start + 4]], dim=1))[:, start:]
                for start in range(0, LENGTH, 4)
            ]
            hidden = torch.cat(parts, dim=1)
        hidden.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        close(a, b, tolerance=1e-5)


def test_a_model_that_is_told_the_time_is_refused():
    """There is one time for the sequence, and every block has its own."""
    model = build(
        lambda attention: DiT(13, LENGTH, hidden_size=16, depth=1, heads=2, cond_dim=8, time_conditioning=True)
    )
    batch, _ = corrupted(PROCESSES[0], 4, model.mask_id)
    with pytest.raises(UserError, match="time_conditioning"):
        nelbo(model, batch)
