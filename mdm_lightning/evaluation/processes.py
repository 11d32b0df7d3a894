"""Sharing an evaluation out among processes, so that the numbers are those of a single one.

The unit is the batch: its composition never depends on the number of processes. Results travel as Python objects over
gloo, whatever the device; nothing else is communicated.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch.distributed
from tqdm.auto import tqdm

from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60  # of progress, where there is no terminal

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
        progress: show progress on the first process: bars on a terminal, elsewhere a line now and then.
        group: of torch.distributed, over which results travel; None for the default one.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, progress: bool = False, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.progress = progress
        self._group = group
        self._progress: _Progress | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def map(
        self, function: Callable[[Unit], Result], units: Sequence[Unit], description: str, *, parts: int = 1
    ) -> list[Result]:
        """Applies a function to every unit, each on one of the processes; all receive all results, in order.

        Args:
            description: what the work is called where progress is shown.
            parts: steps that a unit takes at most, of which the function reports each by ``advance``.

        Raises:
            PeerFailed: the function raised on another process.
        """
        mine: list[Result] = []
        hidden = not (self.progress and self.first)
        with _Progress(description, len(units) * parts, "batches" if parts == 1 else "steps", hidden) as self._progress:
            for number, unit in enumerate(units[self.rank :: self.size], start=1):
                mine.append(function(unit))
                self._progress.reach(min(number * self.size, len(units)) * parts)
        self._progress = None
        shares = self.exchange(mine)
        return [shares[number % self.size][number // self.size] for number in range(len(units))]

    def advance(self) -> None:
        """Shows that the function which ``map`` is applying has come one step further."""
        if self._progress is not None:
            self._progress.reach(self._progress.done + self.size)

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
        torch.distributed.all_gather_object(messages, message, group=self._group)
        return messages


class _Progress:
    """How much of some work is done: a bar on a terminal, elsewhere a line in the log about once a minute."""

    def __init__(self, description: str, total: int, units: str, hidden: bool) -> None:
        self.done = 0
        self._description, self._total, self._units, self._hidden = description, total, units, hidden
        # None: tqdm asks whether it has a terminal.
        self._bar = tqdm(total=total, desc=description, unit=f" {units}", leave=False, disable=True if hidden else None)
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def reach(self, done: int) -> None:
        self._bar.update(done - self.done)
        self.done = done
        if self._bar.disable and not self._hidden and time.monotonic() > self._next_line:
            log.info("%s: %d of %d %s", self._description, done, self._total, self._units)
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
