"""In which order sequences are read: a pure function of the seed, whatever the number of processes.

The `DataLoader` hands a `MicroBatch` as it is to `Counted.__getitems__`, whose result is already a batch: its
`collate_fn` receives the finished dictionary and must not collate again.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mdm_lightning.data.source import Batch, Sequences
from mdm_lightning.errors import UserError


class MicroBatch(list[int]):
    """Indices of the sequences of one micro-batch, with its number since the beginning of training.

    Attributes:
        global_batch: indices of all sequences of the optimizer step that it is part of; None in validation.
    """

    def __init__(self, indices: Iterable[int], counter: int, global_batch: Sequence[int] | None = None) -> None:
        super().__init__(indices)
        self.counter = counter
        self.global_batch = global_batch


class CountedBatch(Batch):
    """A batch that knows the number of its micro-batch, counted over all ranks and epochs."""

    counter: int
    positions: float | None
    """Maskable positions of the global batch, per micro-batch of it; None in validation."""


class BatchOrder:
    """The training order, as a `batch_sampler` of a `DataLoader`.

    A global batch is `micro_batches` times `batch_size` sequences, over all ranks and accumulation steps. Every epoch
    is a new permutation, cut into whole global batches; the remainder is dropped. Micro-batch c, counted from the
    beginning of training, holds the same sequences for every number of ranks; rank r takes those with
    c mod world_size = r.

    Each iteration runs to the end of an epoch, and the next one goes on with the next epoch.

    Args:
        size: number of sequences.
        start: global batches that were already done, to resume; may lie within an epoch.

    Raises:
        UserError: fewer sequences than one global batch, or micro-batches that the ranks cannot share evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        start: int = 0,
    ) -> None:
        if min(batch_size, world_size, micro_batches) < 1 or seed < 0 or start < 0:
            raise UserError(
                f"batch size {batch_size}, processes {world_size} and micro-batches {micro_batches} should be at least "
                f"1, seed {seed} and start {start} at least 0"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        if micro_batches % world_size:
            raise UserError(
                f"{micro_batches} micro-batches per global batch cannot be shared by {world_size} processes: "
                "make the global batch size a multiple of the batch size times the number of processes"
            )
        self.global_batch_size = micro_batches * batch_size
        self.batches_per_epoch = size // self.global_batch_size
        """Global batches in an epoch."""
        if not self.batches_per_epoch:
            raise UserError(
                f"{size} training sequences are fewer than one global batch of {self.global_batch_size}: "
                "lower the batch size or the accumulation, use fewer processes, or give more data"
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.micro_batches = micro_batches
        self._next = start

    def __len__(self) -> int:
        """This rank's micro-batches in a whole epoch, also where the current one was begun in the middle."""
        return self.batches_per_epoch * self.micro_batches // self.world_size

    def __iter__(self) -> Iterator[MicroBatch]:
        # A generator: the DataLoader makes iterators that it never advances, and those must not use up an epoch.
        # The position moves on at the first step, not at the last, because prefetching may stop short of it.
        first = self._next
        epoch, within = divmod(first, self.batches_per_epoch)
        last = first - within + self.batches_per_epoch
        self._next = last
        order = self._permutation(epoch)
        for counter in range(first * self.micro_batches + self.rank, last * self.micro_batches, self.world_size):
            position = (counter - epoch * self.batches_per_epoch * self.micro_batches) * self.batch_size
            start = position - position % self.global_batch_size
            step = order[start : start + self.global_batch_size].tolist()
            yield MicroBatch(order[position : position + self.batch_size].tolist(), counter, step)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)


class ValidationOrder:
    """Every sequence exactly once, as a `batch_sampler` of a `DataLoader`.

    Whole batches are distributed, so their composition does not depend on the number of ranks: rank r takes batches
    r, r + world_size, ... The last of all may be short. `counter` is a batch's number among all.

    Raises:
        UserError: the batch size is not positive.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} should be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        self.size = size
        self.batch_size = batch_size
        self._counters = range(rank, -(-size // batch_size), world_size)

    def __len__(self) -> int:
        """This rank's batches."""
        return len(self._counters)

    def __iter__(self) -> Iterator[MicroBatch]:
        for counter in self._counters:
            start = counter * self.batch_size
            yield MicroBatch(range(start, min(start + self.batch_size, self.size)), counter)


class Counted:
    """Sequences whose batches carry the `counter` of the `MicroBatch` that asked for them."""

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitems__(self, indices: MicroBatch) -> CountedBatch:
        positions = None
        if indices.global_batch is not None:
            total = int(self.sequences.maskable_counts(indices.global_batch).sum())
            positions = total * len(indices) / len(indices.global_batch)
        return CountedBatch(**self.sequences.__getitems__(indices), counter=indices.counter, positions=positions)
