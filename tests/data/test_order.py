import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mdm_lightning.data.order import BatchOrder, Counted, MicroBatch, ValidationOrder
from mdm_lightning.data.text.sources import Files
from mdm_lightning.data.tokenizer.spec import ByteLevel
from mdm_lightning.errors import UserError


def take(order: BatchOrder, count: int) -> list[MicroBatch]:
    """The first micro-batches of one rank, over as many epochs as it takes."""
    endless = itertools.chain.from_iterable(iter(order) for _ in itertools.count())
    return list(itertools.islice(endless, count))


def numbered(batches: list[MicroBatch]) -> dict[int, list[int]]:
    return {batch.counter: list(batch) for batch in batches}


@pytest.mark.parametrize(("size", "batch_size", "micro_batches"), [(24, 2, 4), (103, 5, 4), (8, 2, 4), (40, 1, 8)])
def test_an_epoch_is_a_permutation_without_the_remainder(size, batch_size, micro_batches):
    order = BatchOrder(size, batch_size, seed=3, micro_batches=micro_batches)
    epochs = [list(order) for _ in range(3)]
    for number, epoch in enumerate(epochs):
        seen = [index for batch in epoch for index in batch]
        assert len(epoch) == len(order) == size // (batch_size * micro_batches) * micro_batches
        assert len(set(seen)) == len(seen) == len(order) * batch_size
        assert set(seen) <= set(range(size))
        assert [batch.counter for batch in epoch] == list(range(number * len(order), (number + 1) * len(order)))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_pure_function_of_the_seed():
    assert take(BatchOrder(50, 5, seed=1), 30) == take(BatchOrder(50, 5, seed=1), 30)
    assert take(BatchOrder(50, 5, seed=1), 10) != take(BatchOrder(50, 5, seed=2), 10)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_micro_batches(world_size):
    alone = numbered(take(BatchOrder(103, 5, seed=0, micro_batches=4), 60))
    shared = {}
    for rank in range(world_size):
        order = BatchOrder(103, 5, seed=0, micro_batches=4, rank=rank, world_size=world_size)
        assert len(order) == 5 * 4 // world_size
        mine = numbered(take(order, 60 // world_size))
        assert {counter % world_size for counter in mine} == {rank}
        shared |= mine
    assert shared == alone


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("start", range(14))
def test_resuming_continues(start, world_size):
    """From every start, mid-epoch or not, comes the tail of the uninterrupted order; an epoch is 6 global batches."""
    setting = {"seed": 7, "rank": world_size - 1, "world_size": world_size, "micro_batches": 2}
    per_global = 2 // world_size
    whole = take(BatchOrder(50, 4, **setting), 20 * per_global)
    resumed = BatchOrder(50, 4, start=start, **setting)
    assert len(resumed) == 6 * per_global
    assert len(list(resumed)) == (6 - start % 6) * per_global
    resumed = BatchOrder(50, 4, start=start, **setting)
    assert numbered(take(resumed, (20 - start) * per_global)) == numbered(whole[start * per_global :])


def test_iterators_that_are_not_advanced_use_up_nothing():
    order = BatchOrder(20, 5, seed=0)
    unused = [iter(order) for _ in range(2)]
    assert [batch.counter for batch in order] == [0, 1, 2, 3]
    assert len(unused) == 2


def test_an_abandoned_epoch_is_not_repeated():
    order = BatchOrder(20, 5, seed=0)
    next(iter(order))
    assert [batch.counter for batch in order] == [4, 5, 6, 7]


@pytest.fixture
def sequences(tmp_path, corpus_file):
    return Files(str(corpus_file), length=16).prepare(ByteLevel(), tmp_path).train


def as_it_is(batch):
    return batch


@pytest.mark.parametrize("persistent", [False, True])
def test_loaders_with_and_without_workers_agree(sequences, persistent):
    def load(workers: int) -> list[dict]:
        order = BatchOrder(64, 4, seed=0, micro_batches=4, start=2)
        loader = DataLoader(
            Counted(sequences),  # pyright: ignore[reportArgumentType]
            batch_sampler=order,
            num_workers=workers,
            collate_fn=as_it_is,
            persistent_workers=persistent and workers > 0,
        )
        return [batch for _ in range(3) for batch in loader]

    plain, parallel = load(0), load(2)
    assert [batch["counter"] for batch in plain] == list(range(8, 48))
    assert [batch["counter"] for batch in parallel] == list(range(8, 48))
    for one, other in zip(plain, parallel, strict=True):
        assert torch.equal(one["tokens"], other["tokens"])
    expected = sequences.__getitems__(take(BatchOrder(64, 4, seed=0, micro_batches=4), 9)[8])
    assert torch.equal(plain[0]["tokens"], expected["tokens"])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 23])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_holds_every_sequence_once(size, world_size):
    orders = [ValidationOrder(size, 4, rank, world_size) for rank in range(world_size)]
    batches = {batch.counter: list(batch) for order in orders for batch in order}
    assert sum(map(len, orders)) == len(batches) == -(-size // 4)
    assert [index for counter in sorted(batches) for index in batches[counter]] == list(range(size))
    assert all(len(batches[counter]) == 4 for counter in sorted(batches)[:-1])
    assert all(batch.counter % world_size == rank for rank, order in enumerate(orders) for batch in order)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 7}, "fewer than one global batch of 8"),
        ({"micro_batches": 3, "world_size": 2}, "cannot be shared by 2 processes"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"start": -1}, "at least 0"),
    ],
)
def test_bad_settings(keywords, message):
    with pytest.raises(UserError, match=message):
        BatchOrder(**{"size": 100, "batch_size": 4, "seed": 0, "micro_batches": 2} | keywords)
    with pytest.raises(UserError, match="at least 1"):
        ValidationOrder(10, 0)


def test_epochs_are_uniform_permutations():
    """Chi-squared of where sequence 0 falls in 4,000 epochs of 8 places; fails by chance with probability 1e-6."""
    order = BatchOrder(8, 1, seed=0, micro_batches=8)
    places = np.bincount([[batch[0] for batch in order].index(0) for _ in range(4000)], minlength=8)
    assert ((places - 500) ** 2 / 500).sum() < 41.2
