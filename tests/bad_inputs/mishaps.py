"""What happens to a command while it runs: callbacks that fail, and what is done to its process before it begins."""

import ctypes
import errno
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

_CAPABILITIES = 0x20080522
_OVERRIDES = (1, 2)  # to ignore who may write, and who may read


def _errors() -> dict[str, BaseException]:
    return {
        "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere/file"),
        "quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        "read-only": OSError(errno.EROFS, os.strerror(errno.EROFS), "somewhere/file"),
        "vanished": FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "somewhere/file"),
        "stale": OSError(errno.ESTALE, os.strerror(errno.ESTALE), "somewhere/file"),
        "memory": MemoryError(),
        "allocator": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        "accelerator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        "worker": RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        "archive": RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        "encoding": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        "json": json.JSONDecodeError("Expecting value", "", 0),
        "bug": RuntimeError("a cosmic ray\nand another"),
    }


class Mishap(Callback):
    """Fails in the first step."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        raise _errors()[self.kind]


class KillWorkers(Callback):
    """Kills the processes that load data."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def as_a_user() -> None:
    """Takes from root the right to write and read what its owner has locked."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    for capability in _OVERRIDES:
        for kept in (0, 1):
            sets[kept] &= ~(1 << capability)
    assert libc.capset(header, sets) == 0


def small_files() -> None:
    """No file may become larger than 4 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def full_output() -> None:
    """Standard output is a file on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def plain_output() -> None:
    """Standard output knows ASCII only."""
    sys.stdout.reconfigure(encoding="ascii")  # pyright: ignore[reportAttributeAccessIssue]


def no_input() -> None:
    os.close(0)


def clock_back() -> None:
    """The clock was set back by years."""
    now = time.time
    time.time = lambda: now() - 1e9
