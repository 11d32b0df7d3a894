"""Files that are whole or absent, and the lock under which one process builds what all of them read."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place when the block ends, and vanishes if the block fails.

    Raises:
        UserError: the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = temporary.open("wb")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder that can be written to") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of `path`; the caller holds the lock, so nobody is writing it now."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the operating system frees when its holder dies.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log.info("waiting for another process to build %s", folder)
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot use {folder} as a cache: {error.strerror}; choose another cache folder") from error
    try:
        yield
    finally:
        lock.release()


def _sync_folder(folder: Path) -> None:
    # A rename is durable once its folder is synced; some systems cannot open folders, and then there is no way.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
