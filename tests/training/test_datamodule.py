"""Batches do not depend on how many processes or workers serve them."""

from types import SimpleNamespace

import pytest
import torch

from mdm_lightning.data.source import PreparedData
from mdm_lightning.data.tokenizer_spec import ByteLevel
from mdm_lightning.diffusion.masking import CountMasking, IndependentMasking
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.training.datamodule import MaskedDataModule


class Numbered:
    """Sequences of one repeated token: its index."""

    def __len__(self) -> int:
        return 50

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
    return a.padding is b.padding is None and all(torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))


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
