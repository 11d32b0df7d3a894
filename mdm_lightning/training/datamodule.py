"""The LightningDataModule: prepared sequences in a deterministic order, masked where they are loaded."""

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import lightning
import torch
from torch.utils.data import DataLoader

from mdm_lightning.data.order import BatchOrder, Counted, CountedBatch, MicroBatch, ValidationOrder
from mdm_lightning.data.source import PreparedData, Sequences
from mdm_lightning.diffusion.masking import ForwardProcess, MaskedBatch, mark_answers, seeded_generator
from mdm_lightning.errors import UserError

TRAINING, VALIDATION, ANNEALING = 0, 1, 2  # streams of random numbers derived from one seed

PADDING = -1  # number of a batch that only keeps a process in step with the others: nothing in it is maskable


@dataclass(frozen=True)
class Corrupt:
    """Masks a batch with random numbers that are a pure function of (seed, stream, number of the batch).

    Nothing is drawn from a global generator: the noise of a batch depends on neither the process that loads it nor what
    was loaded before, which is what makes resuming exact.
    """

    process: ForwardProcess
    mask_id: int
    seed: int
    stream: int
    micro_batches: int = 1
    end_id: int | None = None
    """What ends an answer, where answers are to be marked."""

    def __call__(self, batch: CountedBatch) -> MaskedBatch:
        counter = batch["counter"]
        if counter == PADDING:
            counter, batch["maskable"] = 0, torch.zeros_like(batch["maskable"])
        generator = seeded_generator(self.seed, self.stream, counter)
        place = counter % self.micro_batches
        tokens, maskable, positions = batch["tokens"], batch["maskable"], batch["positions"]
        masked = self.process(tokens, maskable, self.mask_id, generator, place, self.micro_batches)
        if positions is not None:
            masked = masked._replace(positions=torch.tensor(positions, dtype=torch.float32))
        return masked if self.end_id is None else mark_answers(masked, tokens, maskable, self.end_id)


class MaskedDataModule(lightning.LightningDataModule):
    """Serves MaskedBatch to training and validation.

    The training stream is endless; its order and its noise are pure functions of the seed and the number of the batch,
    so the position in it follows from the optimizer step alone, for any number of processes and workers.

    Args:
        data: prepared sequences.
        process: how training sequences are masked.
        validation_process: how validation sequences are masked; the same masks at every validation.
        batch_size: sequences per device and step.
        global_batch_size: sequences per optimizer step, over devices and accumulation.
        validation_sequences: validate on the first so many only; None for all.
        workers: data loading processes per device.
        seed: of the order and the masks.
    """

    def __init__(
        self,
        data: PreparedData,
        process: ForwardProcess,
        validation_process: ForwardProcess,
        *,
        batch_size: int,
        global_batch_size: int,
        validation_sequences: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.data = data
        self.process = process
        self.validation_process = validation_process
        self.batch_size = batch_size
        self.micro_batches = accumulation(global_batch_size, batch_size, world_size=1)
        self.validation_sequences = validation_sequences
        self.workers = workers
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        order = BatchOrder(
            len(self.data.train),
            self.batch_size,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            micro_batches=self.micro_batches,
            start=self.trainer.global_step,
        )
        corrupt = Corrupt(self.process, self.data.tokenizer.mask_id, self.seed, TRAINING, self.micro_batches)
        return self._loader(self.data.train, Endless(order), corrupt)

    def val_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        size = min(len(self.data.validation), self.validation_sequences or len(self.data.validation))
        order = padded_validation_order(size, self.batch_size, self.trainer.global_rank, self.trainer.world_size)
        mask_id, end_id = self.data.tokenizer.mask_id, self.data.answer_end
        corrupt = Corrupt(self.validation_process, mask_id, self.seed, VALIDATION, end_id=end_id)
        return self._loader(self.data.validation, order, corrupt)

    def _loader(self, sequences: Sequences, order: Iterable[MicroBatch], corrupt: Corrupt) -> DataLoader:
        return DataLoader(
            Counted(sequences),  # pyright: ignore[reportArgumentType]
            batch_sampler=order,  # pyright: ignore[reportArgumentType]
            collate_fn=corrupt,  # pyright: ignore[reportArgumentType]
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals_to_the_trainer,
            # Without a generator of its own the loader would draw from the global one, and resuming would shift it.
            generator=torch.Generator(),
        )


@dataclass(frozen=True)
class Endless:
    """All epochs of an order, one after the other: to Lightning, training is a single epoch without a length."""

    order: BatchOrder

    def __iter__(self) -> Iterator[MicroBatch]:
        while True:
            yield from self.order


def padded_validation_order(size: int, batch_size: int, rank: int, world_size: int) -> list[MicroBatch]:
    """Every batch of validation once, and as many batches on every process: sharded models step in lockstep."""
    batches = list(ValidationOrder(size, batch_size, rank, world_size))
    if len(batches) < len(ValidationOrder(size, batch_size, 0, world_size)):
        batches.append(MicroBatch([0], PADDING))
    return batches


def accumulation(global_batch_size: int, batch_size: int, world_size: int) -> int:
    """Micro-batches that each process accumulates per optimizer step.

    Raises:
        UserError: the global batch does not divide evenly.
    """
    if batch_size < 1 or global_batch_size % (batch_size * world_size) or global_batch_size < 1:
        raise UserError(
            f"training.global_batch_size={global_batch_size} is not a multiple of training.batch_size={batch_size} "
            f"times {world_size} processes: change one of them"
        )
    return global_batch_size // (batch_size * world_size)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A Ctrl-C reaches the whole process group; workers must live until the trainer has saved and ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
