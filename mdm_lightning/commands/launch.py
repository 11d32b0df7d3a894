"""Starting one process per device on this machine.

Lightning's own launcher replays the command line, sweep flags and all, on every rank. Here the ranks are started with
explicit overrides and an explicit output folder, in the environment that torchrun would give them. (torchrun's own
launcher kills ranks 30 seconds into saving a checkpoint by default, does not pass SIGUSR1 on, and forgets their exit
status on SIGTERM.)
Under torchrun, srun or submitit nothing is launched (``devices.py`` knows).
"""

import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] documented, but not marked as public

from mdm_lightning.commands.command import ERROR_FILE, RanksFailed
from mdm_lightning.commands.program import program
from mdm_lightning.stopping import LAUNCHER, PREEMPTED, SIGNALS

log = logging.getLogger(__name__)

SECONDS_TO_STOP = 60  # for the other ranks, once one has failed: a busy machine may take long to end them

# How a collective fails on the ranks that did nothing wrong.
BROKEN_CONNECTION = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


def launch_ranks(ranks: int, arguments: Sequence[str], directory: str | None = None) -> None:
    """Runs this command again, once per rank, and waits for all of them.

    The arguments should name the output folder, so that all ranks agree on it, and mean relative paths as this
    command did.

    Args:
        directory: from which the command was called, if this process may have left it.

    Signals are passed on to every rank, and the ranks decide what to do about them. When a rank fails, the others are
    told to stop and, stuck in a collective as they may be, killed a little later. When this process ends, however it
    does, so do the ranks: they watch a pipe that nobody else can write to.

    Raises:
        RanksFailed: with the message and exit status of the rank that brought the others down.
    """
    with tempfile.TemporaryDirectory(prefix="mdm-ranks-") as folder:
        errors = [Path(folder) / str(rank) for rank in range(ranks)]
        command = [sys.executable, *program(), *arguments]
        meeting = meeting_point()
        theirs, ours = os.pipe()
        processes = [
            subprocess.Popen(
                command,
                cwd=directory,
                env=os.environ
                | _environment(rank, ranks, meeting.port)
                | {ERROR_FILE: str(errors[rank]), LAUNCHER: str(theirs)},
                pass_fds=[theirs],
            )
            for rank in range(ranks)
        ]
        statuses = _wait(processes)
        os.close(ours)
        os.close(theirs)
        if not any(statuses):
            return
        raise _verdict(statuses, [error.read_text() if error.exists() else None for error in errors])


def _verdict(statuses: Sequence[int], messages: Sequence[str | None]) -> RanksFailed:
    """What to tell the user of ranks that failed: the cause rather than its consequences.

    A rank that dies takes the others with it: their collectives break, and then they are told to stop. So a rank that
    the system killed comes first, then one that failed for a reason of its own, then broken connections.
    """
    for rank, (status, message) in enumerate(zip(statuses, messages, strict=True)):
        if status in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS) and message is None:
            return RanksFailed(f"error: rank {rank} was killed by {signal.Signals(-status).name}", 1)
    failed = [
        (status, message or f"error: rank {rank} exited with {status}")
        for rank, (status, message) in enumerate(zip(statuses, messages, strict=True))
        if status
    ]
    own_reason = [failure for failure in failed if not any(word in failure[1] for word in BROKEN_CONNECTION)]
    status, message = (own_reason or failed)[0]
    return RanksFailed(message, status if status > 0 else 1)


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would set on one machine."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "mdm-lightning",
        "OMP_NUM_THREADS": threads,
    }


def meeting_point() -> TCPStore:
    """Where ranks find each other, at a port that nobody else can take before they do."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def _wait(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Waits for all ranks while passing signals on; once one has failed, the others are given a little time to end.

    Returns each rank's exit status; 0 also for those that had to be ended here, which are nobody's fault.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    handlers = {number: signal.signal(number, pass_on) for number in SIGNALS}
    deadline = math.inf
    ended_here: set[int] = set()
    try:
        while any(process.poll() is None for process in processes):
            if deadline == math.inf and any(process.returncode not in (None, 0, PREEMPTED) for process in processes):
                pass_on(signal.SIGTERM, None)
                deadline = time.monotonic() + SECONDS_TO_STOP
            if time.monotonic() > deadline:
                ended_here |= {rank for rank, process in enumerate(processes) if process.poll() is None}
                pass_on(signal.SIGKILL, None)
            time.sleep(0.05)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return [0 if rank in ended_here else process.returncode for rank, process in enumerate(processes)]
