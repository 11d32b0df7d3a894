"""What ``trainer=`` says of processes, devices and precision, and the processes that there are."""

import atexit
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, ListConfig, OmegaConf

from mdm_lightning.commands.command import ERROR_FILE
from mdm_lightning.commands.options.settings import parse_precision
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.processes import Processes

log = logging.getLogger(__name__)

MEETING = timedelta(minutes=10)  # within which all processes must have come

_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


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


def announce_meeting(size: int, limit: timedelta) -> str:
    """Has the first of several processes that somebody else has started say for whom it waits; and where they meet."""
    slurm = SLURMEnvironment() if "RANK" not in os.environ and SLURMEnvironment.detect() else None
    where = ":".join(os.environ.get(f"MASTER_{part}", "?") for part in ("ADDR", "PORT"))
    where = where if slurm is None else f"{slurm.main_address}:{slurm.main_port}"
    if size > 1 and first_rank() and ERROR_FILE not in os.environ:  # else the launcher says why some are not there
        log.info("waiting for all %d processes to meet at %s, for %s at most", size, where, limit)
    return where


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
        where = announce_meeting(size, MEETING)
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


def choose_device(trainer: DictConfig) -> torch.device:
    """The device of this process.

    Raises:
        UserError: the accelerator is not supported.
    """
    if trainer.accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={trainer.accelerator}: evaluation runs on auto, cpu or gpu")
    if trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    listed = OmegaConf.is_list(trainer.devices)
    return torch.device("cuda", trainer.devices[local_rank] if listed else local_rank)


def stored_precision(trainer: DictConfig, *, frozen: bool = False) -> torch.dtype:
    """The data type of the weights: float32 under mixed precision, but for weights that are never trained.

    Raises:
        UserError: there is no such precision.
    """
    dtype, mixed = _read(trainer)
    return torch.float32 if mixed and not frozen else dtype


def refuse_low_precision(trainer: DictConfig) -> None:
    """For training, whose steps would be lost in weights of 8 or 11 bits, and whose loss weights would be rounded.

    Raises:
        UserError: the weights that are trained would not be float32 or float64.
    """
    dtype, mixed = _read(trainer)
    if not mixed and dtype.itemsize < 4:
        bits = "bf16" if dtype == torch.bfloat16 else "16"
        raise UserError(
            f"trainer.precision={trainer.precision} keeps the weights that are trained in {dtype}, too coarse for "
            f"their steps: use trainer.precision={bits}-mixed (which keeps in it those that are not trained)"
        )


def precision_context(trainer: DictConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Automatic mixed precision where ``trainer.precision`` asks for it.

    Raises:
        UserError: there is no such precision.
    """
    dtype, mixed = _read(trainer)
    return torch.autocast(device.type, dtype) if mixed and dtype != torch.float32 else nullcontext()


def _read(trainer: DictConfig) -> tuple[torch.dtype, bool]:
    """The data type to compute in, and whether the weights stay in float32."""
    bits, mixed = parse_precision(trainer.precision)
    return _DTYPES[bits], mixed
