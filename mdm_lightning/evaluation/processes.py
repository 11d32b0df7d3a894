"""Sharing an evaluation out among processes, so that the numbers are those of a single one.

The unit is the batch: its composition never depends on the number of processes. Results travel as Python objects over
gloo, whatever the device; nothing else is communicated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch.distributed
from tqdm import tqdm

from mdm_lightning.errors import UserError

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class PeerFailed(UserError):
    """Another process failed; this one stops where the other's result was due."""


class _Message(NamedTuple):
    value: Any
    failure: str | None = None


class Processes:
    """A process and its peers: by default there are none.

    Args:
        rank: number of this process.
        size: number of processes, which have initialised torch.distributed if they are several.
        progress: show progress bars, on the first process.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, progress: bool = False) -> None:
        self.rank = rank
        self.size = size
        self.progress = progress

    @property
    def first(self) -> bool:
        return self.rank == 0

    def map(self, function: Callable[[Unit], Result], units: Sequence[Unit], description: str) -> list[Result]:
        """Applies a function to every unit, each on one of the processes; all receive all results, in order.

        Raises:
            PeerFailed: the function raised on another process.
        """
        mine: list[Result] = []
        hidden = not (self.progress and self.first)
        with tqdm(total=len(units), desc=description, unit="batch", leave=False, disable=hidden) as bar:
            for unit in units[self.rank :: self.size]:
                mine.append(function(unit))
                bar.update(min(self.size, len(units) - bar.n))
        shares = self.exchange(mine)
        return [shares[number % self.size][number // self.size] for number in range(len(units))]

    def exchange(self, value: Result) -> list[Result]:
        """The values of all processes, in the order of their ranks.

        Raises:
            PeerFailed: another process reports a failure instead.
        """
        messages = self._gather(_Message(value))
        for rank, message in enumerate(messages):
            if message.failure is not None:
                raise PeerFailed(f"rank {rank}: {message.failure}")
        return [message.value for message in messages]

    @contextmanager
    def together(self, explain: Callable[[Exception], str] = str) -> Iterator[None]:
        """A block that all processes leave in the same way: without an exception, or all with one.

        Every process takes part in the same exchanges until one of them carries a failure. So a process that fails
        between two exchanges reports it in the place of the next one, where its peers are waiting for it.

        Args:
            explain: what the peers are told of an exception.
        """
        try:
            yield
        except PeerFailed:
            raise
        except Exception as error:
            self._gather(_Message(None, explain(error)))
            raise
        self.exchange(None)

    def _gather(self, message: _Message) -> list[_Message]:
        if self.size == 1:
            return [message]
        messages: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(messages, message)
        return messages
