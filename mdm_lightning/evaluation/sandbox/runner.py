"""Generated programs: run apart from everything else, within limits, and only if the user has said so."""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mdm_lightning.arguments import check_numbers
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.sandbox.supervisor import Isolation, Order

_CHILD = Path(__file__).with_name("supervisor.py")
_STARTING = 300.0
"""Seconds that a busy machine may take for isolating a program, and for clearing up after it."""


class Outcome(NamedTuple):
    """What became of a program."""

    passed: bool
    """Whether it ran past its last line: neither an error, nor an exit in between, nor a limit stopped it."""
    reason: str
    """In a few words: "passed", "timed out", "AssertionError: ...", "killed by SIGKILL"."""


@dataclass(frozen=True)
class ProgramRunner:
    """Runs Python programs, each in an interpreter and an empty folder of its own, which are gone afterwards, with all
    processes that it started. Its output is thrown away.

    How well a program is kept apart, beyond its limits, depends on the system: see ``isolation``.

    Args:
        seconds: of CPU time that each of its processes may take, rounded up. The tests of the usual benchmarks take a
            fraction of one; the rest is for importing large libraries.
        wall_seconds: that a program may take by the clock. Only for those that wait or go round in circles without
            computing: how busy the machine is must not decide a score.
        memory_mib: address space of each of its processes.
        processes: processes and threads at a time. Not enforced where the programs run as root.
        workers: programs at a time; None for as many as there are cores.

    Raises:
        ValueError: a number is not positive.
    """

    seconds: float = 10.0
    wall_seconds: float = 60.0
    memory_mib: int = 1024
    processes: int = 16
    workers: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, memory_mib=1, processes=1, workers=1)
        for name in ("seconds", "wall_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ProgramRunner: {name} must be positive, got {getattr(self, name)}")

    @property
    def isolation(self) -> Isolation:
        """What programs are run in.

        Raises:
            UserError: no program can be run at all.
        """
        return available_isolation()

    def run(self, program: str) -> Outcome:
        """Raises:
        UserError: no program can be run at all.
        RuntimeError: this one could not be isolated.
        """
        return _run_patiently(program, self, self.isolation)

    def run_all(self, programs: Sequence[str]) -> list[Outcome]:
        """The outcome of each, several at a time.

        Raises:
            UserError: no program can be run at all.
            RuntimeError: one of them could not be isolated.
        """
        isolation = self.isolation
        with ThreadPoolExecutor(self.workers or cores()) as pool:
            return list(pool.map(lambda program: _run_patiently(program, self, isolation), programs))


@functools.cache
def available_isolation() -> Isolation:
    """What this system allows, found out by trying.

    Raises:
        UserError: no program can be run at all.
    """
    runner = ProgramRunner(seconds=_STARTING, wall_seconds=_STARTING)
    found = Isolation()
    try:
        outcome = _run("", runner, found)
    except RuntimeError as error:
        raise UserError(f"cannot run Python programs here: {error}") from error
    if not outcome.passed:
        raise UserError(f"cannot run Python programs here: {outcome.reason}")
    for name in Isolation._fields:
        wider = found._replace(**{name: True})
        with suppress(RuntimeError):
            if _run("", runner, wider).passed:
                found = wider
    return found


def _run_patiently(program: str, limits: ProgramRunner, isolation: Isolation) -> Outcome:
    """What isolates programs elsewhere may be all in use for the moment: hours of generation are not to be lost."""
    for pause in (1, 10):
        try:
            return _run(program, limits, isolation)
        except (RuntimeError, OSError):
            time.sleep(pause)
    return _run(program, limits, isolation)


def _run(program: str, limits: ProgramRunner, isolation: Isolation) -> Outcome:
    """Raises:
    RuntimeError: the program could not be isolated.
    """
    # Another user's leavings, or a folder that the program has closed, may not be ours to delete.
    with TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder:
        interpreter = [sys.prefix, sys.base_prefix, os.path.dirname(sys.executable)]
        bounds = limits.seconds, limits.wall_seconds, limits.memory_mib, limits.processes
        order = Order(folder, interpreter, str(Path.home()), *bounds, isolation)
        with subprocess.Popen(
            [sys.executable, "-ISB", str(_CHILD), json.dumps(order._asdict())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        ) as process:
            try:
                told, errors = process.communicate(program.encode(errors="replace"), limits.wall_seconds + _STARTING)
            except subprocess.TimeoutExpired:
                return Outcome(False, "timed out")
            finally:
                if process.returncode is None:  # not waited for: the number is still its own
                    os.killpg(process.pid, signal.SIGKILL)
    if told:
        return Outcome(*json.loads(told))
    if errors:
        raise RuntimeError(errors.decode(errors="replace").strip().split("\n")[-1])
    return Outcome(False, "its supervisor was killed")


def _environment(folder: str) -> dict[str, str]:
    """Nothing of ours, and the order of sets settled."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # each takes address space
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    own = {"HOME": folder, "TMPDIR": folder, "PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return {**own, **threads, **libraries}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that one of k samples passes, without bias, where c of n samples passed (Chen et al. 2021, eq. 1).

    Raises:
        ValueError: there are fewer than k samples, or the numbers make no sense.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples of which {c} passed")
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws


Runs = Callable[[Sequence[str]], list[Outcome]]

_runs: ContextVar[Runs | None] = ContextVar("runs", default=None)


@contextmanager
def allowing(run_all: Runs) -> Iterator[None]:
    """Within, tasks may have generated programs run, by the given function: the user has confirmed it."""
    token = _runs.set(run_all)
    try:
        yield
    finally:
        _runs.reset(token)


def run_programs(programs: Sequence[str]) -> list[Outcome]:
    """The outcome of each.

    Raises:
        UserError: the user has not confirmed that generated programs may run.
    """
    run_all = _runs.get()
    if run_all is None:
        raise UserError(
            "this task runs generated programs: read docs/benchmarks.md, then confirm with "
            "evaluation.allow_code_execution=true"
        )
    return run_all(programs)
