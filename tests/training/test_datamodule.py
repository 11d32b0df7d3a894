"""Batches do not depend on how many processes or workers serve them, nor does what they make of a step."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdm_lightning.data.source import PreparedData
from mdm_lightning.data.text.sources import Files
from mdm_lightning.data.tokenizer.spec import ByteLevel
from mdm_lightning.denoiser.dit import DiT
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking, mask_counts
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training.datamodule import MaskedDataModule
from mdm_lightning.training.module import MaskedDiffusion
from mdm_lightning.training.optimizer import AdamW, Constant


class Numbered:
    """Sequences of one repeated token: its index."""

    def __len__(self) -> int:
        return 50

    def maskable_counts(self, indices):
        return np.full(len(indices), 6)

    def __getitems__(self, indices):
        tokens = torch.tensor(list(indices))[:, None].expand(-1, 6).clone()
        return {"tokens": tokens, "maskable": torch.ones_like(tokens, dtype=torch.bool)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tokenizer = ByteLevel().build(lambda: [], tmp_path_factory.mktemp("tokenizer"))
    return PreparedData("numbered", tokenizer, 6, Numbered(), Numbered(), 1.0, "x")


def module(data, rank=0, world=1, step=0, workers=0):
    independent = IndependentMasking(LinearSchedule(), StratifiedTimes())
    built = MaskedDataModule(
        data, independent, CountMasking(StratifiedTimes()), batch_size=3, global_batch_size=12, workers=workers, seed=5
    )
    built.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=step)
    return built


def take(loader, count):
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def same(a, b):
    pairs = list(zip(a, b, strict=True))
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


def test_two_ranks_share_what_one_process_reads(data):
    whole = take(module(data).train_dataloader(), 24)  # past the end of an epoch
    shared = [take(module(data, rank, world=2).train_dataloader(), 12) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        assert same(batch, shared[number % 2][number // 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_step_alone_says_where_to_go_on(data, workers):
    whole = take(module(data).train_dataloader(), 24)
    resumed = take(module(data, step=3, workers=workers).train_dataloader(), 12)
    assert all(same(a, b) for a, b in zip(whole[12:], resumed, strict=True))


def test_noise_differs_between_ranks_and_steps(data):
    batches = take(module(data).train_dataloader(), 12)
    kept = {tuple(batch.alpha.tolist()) for batch in batches}
    assert len(kept) == 12


def test_times_are_stratified_over_the_global_batch(data):
    batches = take(module(data).train_dataloader(), 4)
    strata = sorted(int(alpha * 12) for batch in batches for alpha in batch.alpha.tolist())
    assert strata == list(range(12))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_validation_sees_every_sequence_once_and_in_lockstep(data, world):
    ranks = [list(module(data, rank, world).val_dataloader()) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sum(int(batch.lengths.sum()) for batches in ranks for batch in batches) == 50 * 6
    one = list(module(data).val_dataloader())
    for number, batch in enumerate(one):
        assert same(batch, ranks[number % world][number // world])


class AllMasked:
    """Every maskable position is masked and counts once, so that batches differ in nothing but their composition."""

    estimator = "the cross-entropy of everything"

    def __call__(self, tokens, maskable, mask_id, generator, micro_batch=0, micro_batches=1):
        count = maskable.sum(1)
        return mask_counts(tokens, maskable, mask_id, count, torch.zeros(tokens.shape, dtype=torch.float64))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Responses of 2 to 45 maskable positions."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [{"question": "q" * (3 + 43 * (i % 2)), "answer": chr(97 + i % 7)} for i in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = str(folder / "pairs.jsonl")
    files = Files(path, length=48, prompt_field="question", response_field="answer", validation_path=path)
    return files.prepare(ByteLevel(), folder / "cache")


def after_one_step(pairs, batch_size: int, world: int) -> dict[str, torch.Tensor]:
    """Gradients of one optimizer step as Lightning has them: averaged over micro-batches and over processes."""
    torch.manual_seed(0)
    denoiser = DiT(vocab_size=257, length=48, hidden_size=16, depth=1, heads=2)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trained = MaskedDiffusion(denoiser, AdamW(), Constant())
    trained.trainer = SimpleNamespace(precision="32-true", global_step=0)
    accumulate = 8 // batch_size // world
    for rank in range(world):
        built = MaskedDataModule(pairs, AllMasked(), AllMasked(), batch_size=batch_size, global_batch_size=8, seed=1)
        built.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=0)
        for number, batch in enumerate(take(built.train_dataloader(), accumulate)):
            (trained.training_step(batch, number) / accumulate / world).backward()
    return {name: parameter.grad for name, parameter in denoiser.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("batch_size", "world"), [(4, 1), (2, 1), (1, 1), (4, 2), (1, 2), (2, 4)])
def test_what_is_minimised_depends_on_no_memory_knob(pairs, batch_size, world):
    """However unequal the numbers of maskable positions are, every one of a global batch counts the same."""
    whole, parts = after_one_step(pairs, 8, 1), after_one_step(pairs, batch_size, world)
    assert whole.keys() == parts.keys()
    assert len(whole) > 5
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], rtol=1e-4, atol=1e-7), name


def test_text_is_normalised_by_its_own_batch(data):
    for batch in take(module(data).train_dataloader(), 8):
        assert batch.positions.dtype == torch.float32
        assert batch.positions == batch.lengths.sum()
