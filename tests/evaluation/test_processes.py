"""Sharing work out: results in order, and failures that all processes learn of while none is left waiting."""

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from mdm_lightning.diffusion.masking import IndependentMasking
from mdm_lightning.diffusion.schedule import LinearSchedule
from mdm_lightning.diffusion.timesteps import StratifiedTimes
from mdm_lightning.evaluation import processes as module
from mdm_lightning.evaluation.generation.samples import SampleTexts
from mdm_lightning.evaluation.likelihood.corpus import Likelihood
from mdm_lightning.evaluation.likelihood.policy import Policy
from mdm_lightning.evaluation.likelihood.profile import Profile
from mdm_lightning.evaluation.processes import PeerFailed, Processes
from mdm_lightning.sampling.count import Expected
from mdm_lightning.sampling.sampler import Sampler
from mdm_lightning.sampling.spaced import Spaced
from tests.forkserver import run_side_by_side

from .corpora import ONE_AT_A_TIME, text_subject

Scenario = Callable[[Processes], Any]


def _join(scenario: Scenario, rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    result = scenario(Processes(rank, size))
    Path(folder, str(rank)).write_bytes(pickle.dumps(result))
    # Not destroy_process_group: the first to leave would take the connections of the others with it.
    torch.distributed.barrier()
    os._exit(0)


def run(scenario: Scenario, size: int, folder: Path) -> list[Any]:
    """What the scenario returns on each of so many processes, which must all come to their end."""
    if size == 1:
        return [scenario(Processes())]
    run_side_by_side(_join, [(scenario, rank, size, str(folder)) for rank in range(size)])
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(size)]


def mapping(processes: Processes) -> tuple[list[list[tuple[int, int]]], list[list[int]]]:
    """For several numbers of units: who squared which, and afterwards what an exchange collects."""
    maps = [
        processes.map(lambda unit: (processes.rank, unit**2), range(10, 10 + n), "squares") for n in (0, 1, 2, 3, 7)
    ]
    return maps, [processes.exchange(10 * processes.rank) for _ in range(2)]


@pytest.mark.ddp
@pytest.mark.parametrize("size", [1, 2, 3])
def test_results_come_in_order_on_every_process(tmp_path, size):
    for maps, exchanges in run(mapping, size, tmp_path):
        expected = [[(unit % size, (10 + unit) ** 2) for unit in range(n)] for n in (0, 1, 2, 3, 7)]
        assert maps == expected
        assert exchanges == [[10 * rank for rank in range(size)]] * 2


class Failing:
    """A block of work that fails on some ranks: before the first map, in a map, between two, or after the last."""

    def __init__(self, place: str, ranks: tuple[int, ...]) -> None:
        self.place = place
        self.ranks = ranks

    def _at(self, place: str, rank: int) -> None:
        if place == self.place and rank in self.ranks:
            raise ValueError(f"{place} on {rank}")

    def _work(self, processes: Processes) -> None:
        self._at("before", processes.rank)
        # Unit 5 falls on rank 1 of two and on rank 2 of three; every rank has units after its first.
        processes.map(lambda unit: self._at("inside", processes.rank) if unit >= 3 else unit, range(9), "first")
        self._at("between", processes.rank)
        processes.map(abs, range(4), "second")
        self._at("after", processes.rank)

    def __call__(self, processes: Processes) -> tuple[str, str, list[int]]:
        """How the block ended here, and what the next block, in which nothing fails, gives."""
        ending = "none", ""
        try:
            with processes.together(lambda error: f"explained: {error}"):
                self._work(processes)
        except (PeerFailed, ValueError) as error:
            ending = type(error).__name__, str(error)
        with processes.together():
            following = processes.map(abs, [-3, -2, -1, 0], "next")
        return *ending, following


@pytest.mark.ddp
@pytest.mark.parametrize("place", ["before", "inside", "between", "after"])
@pytest.mark.parametrize(("size", "ranks"), [(2, (0,)), (2, (1,)), (3, (0, 2)), (2, (0, 1))])
def test_a_failure_is_everybodys(tmp_path, place, size, ranks):
    """The failing processes raise their own exception, the others say whose it was; and then they are in step again."""
    for rank, (kind, message, following) in enumerate(run(Failing(place, ranks), size, tmp_path)):
        if rank in ranks:
            assert (kind, message) == ("ValueError", f"{place} on {rank}")
        else:
            assert (kind, message) == ("PeerFailed", f"rank {ranks[0]}: explained: {place} on {ranks[0]}")
        assert following == [3, 2, 1, 0]


@pytest.mark.parametrize("place", ["before", "inside", "between", "after"])
def test_alone_a_failure_is_an_ordinary_exception(place):
    assert Failing(place, (0,))(Processes()) == ("ValueError", f"{place} on 0", [3, 2, 1, 0])


def different_calls(processes: Processes) -> str:
    """One process has nothing to do, the other fails in the second of its two maps."""
    try:
        with processes.together():
            processes.map(lambda unit: unit, range(1), "one unit")
            processes.map(lambda unit: 1 // unit, [1, 0], "division")
    except (PeerFailed, ZeroDivisionError) as error:
        return type(error).__name__
    return "none"


@pytest.mark.ddp
def test_a_process_without_work_learns_of_the_failure_as_well(tmp_path):
    assert run(different_calls, 3, tmp_path) == ["PeerFailed", "ZeroDivisionError", "PeerFailed"]


def evaluations(processes: Processes) -> list[Any]:
    """Everything but the speed."""
    texts = ["abcde", "abcdd", "eeeee", "badce", "ecdab", "ddddd", "aecdb"]
    subject = text_subject(texts, texts)
    subject.processes = processes
    masking = IndependentMasking(LinearSchedule(), StratifiedTimes())
    chosen = [
        Likelihood(masking, draws=2, batch_size=2),
        Likelihood(Policy(Sampler(LinearSchedule(), Expected(), Spaced(), steps=2)), draws=2, batch_size=3),
        Profile(batch_size=3),
        SampleTexts(ONE_AT_A_TIME, batch_size=1),
    ]
    rows = [row for evaluation in chosen for row in evaluation(subject) if row.metric != "tokens_per_second"]
    return [rows, subject.outputs.texts]


@pytest.mark.ddp
def test_the_numbers_are_those_of_one_process(tmp_path):
    alone = evaluations(Processes())
    assert run(evaluations, 3, tmp_path) == [alone] * 3


class Lines(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_progress_is_told_by_steps(monkeypatch):
    """Without a terminal in lines; a unit that takes fewer steps than it may counts as done all the same."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    lines, logger = Lines(), logging.getLogger(module.__name__)
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    shown = Processes(progress=True)

    def work(steps: int) -> None:
        for _ in range(steps):
            shown.advance()

    try:
        shown.map(work, [3, 2], "sampling", parts=3)
        Processes().map(work, [3], "hidden", parts=3)
    finally:
        logger.removeHandler(lines)
    told = [f"sampling: {done} of 6 steps" for done in (1, 2, 3, 3, 4, 5, 6)]
    assert lines.messages == told
