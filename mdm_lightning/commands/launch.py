"""Starting one process per device on this machine.

Lightning's own launcher replays the command line, sweep flags and all, on every rank. Here the ranks are started with
explicit overrides and an explicit output folder, in the environment that torchrun would give them. (torchrun's own
launcher kills ranks 30 seconds into saving a checkpoint by default, does not pass SIGUSR1 on, and forgets their exit
status on SIGTERM.)
Under torchrun, srun or submitit nothing is launched.
"""

import atexit
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, ListConfig
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] documented, but not marked as public

from mdm_lightning.commands.command import ERROR_FILE, RanksFailed
from mdm_lightning.commands.program import program
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.processes import Processes
from mdm_lightning.stopping import LAUNCHER, PREEMPTED, SIGNALS

log = logging.getLogger(__name__)

MEETING = timedelta(minutes=10)  # within which all processes must have come

SECONDS_TO_STOP = 60  # for the other ranks, once one has failed: a busy machine may take long to end them

# How a collective fails on the ranks that did nothing wrong.
BROKEN_CONNECTION = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


def local_ranks(trainer: DictConfig) -> int:
    """Processes that a trainer config asks for on this machine.

    Raises:
        UserError: it asks for devices that do not exist, or for machines on which nobody has started anything.
    """
    if trainer.num_nodes > 1 and not ranks_exist():
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}, but nothing here knows of other machines: start the same command "
            f"on each of them, by torchrun --nnodes={trainer.num_nodes} --rdzv-endpoint=HOST:PORT ... or srun"
        )
    gpus = torch.cuda.device_count()
    on_gpu = trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and gpus > 0)
    available = gpus if on_gpu else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = "GPU" if on_gpu else "CPU core"
    devices = trainer.devices
    if devices in ("auto", -1, "-1"):
        wanted = max(1, gpus) if on_gpu else 1
    elif isinstance(devices, int):
        wanted = devices
    elif isinstance(devices, ListConfig):
        if not on_gpu or len(set(devices)) < len(devices) or not all(device in range(gpus) for device in devices):
            raise UserError(
                f"trainer.devices={devices} on trainer.accelerator={trainer.accelerator}: a list names different GPUs "
                f"from 0 on, of which this machine has {gpus}; of CPU cores give a number"
            )
        wanted = len(devices)
    else:
        raise UserError(f"trainer.devices={devices} should be a number of devices, a list of them, or auto")
    if wanted < 1 or wanted > (available or 0):
        raise UserError(
            f"trainer.devices={devices} on trainer.accelerator={trainer.accelerator}: this machine has {available} "
            f"{kind}{'' if available == 1 else 's'}"
        )
    return wanted


def world_size(trainer: DictConfig, ranks: int) -> int:
    """Processes over all machines: as started already, or as this machine is about to start them."""
    started = os.environ.get("WORLD_SIZE") or (os.environ["SLURM_NTASKS"] if SLURMEnvironment.detect() else None)
    return int(started) if started else ranks * trainer.num_nodes


def ranks_exist() -> bool:
    """Whether torchrun, srun or this module has already started one process per device."""
    return "RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect()


def first_rank() -> bool:
    """Whether this process is the first of its peers, or has none."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def leads() -> bool:
    """Whether this process answers for the command: it launches the ranks, or is the first that somebody else did."""
    return first_rank() and ERROR_FILE not in os.environ


def join_ranks(*, progress: bool) -> Processes:
    """This process and its peers, as torchrun, srun or ``launch_ranks`` started them.

    They talk over gloo, whatever the device: only results are exchanged. All must have come within ``MEETING``. From
    then on the time limit is long, because ranks may have unequal work; a peer that dies is noticed by its broken
    connection, not by the clock.

    Raises:
        UserError: some have not come.
    """
    slurm = SLURMEnvironment() if "RANK" not in os.environ and SLURMEnvironment.detect() else None
    if slurm is not None:
        rank, size = slurm.global_rank(), slurm.world_size()
        meeting_point = f"tcp://{slurm.main_address}:{slurm.main_port}"
    else:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        meeting_point = "env://"
    if size == 1:
        return Processes(rank, size, progress=progress)
    if not torch.distributed.is_initialized():
        where = meeting_point.removeprefix("tcp://")
        where = ":".join(os.environ.get(f"MASTER_{part}", "?") for part in ("ADDR", "PORT")) if slurm is None else where
        if rank == 0 and ERROR_FILE not in os.environ:  # ranks of our own are there, or their launcher says why not
            log.info("waiting for all %d processes to meet at %s, for %s at most", size, where, MEETING)
        try:
            torch.distributed.init_process_group(
                "gloo", init_method=meeting_point, rank=rank, world_size=size, timeout=MEETING
            )
        except torch.distributed.DistError as error:
            raise UserError(
                f"not all of {size} processes have come to {where} within {MEETING}: are they all running?"
            ) from error
        # Its threads, left running, may abort an interpreter that is about to exit.
        atexit.register(torch.distributed.destroy_process_group)
    return Processes(rank, size, progress=progress, group=_patient_group())


@cache
def _patient_group() -> Any:
    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=7))


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
