"""The folder that a command writes to: one command at a time has it, and one that comes to nothing leaves none."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

LOCK = ".lock"

# What any command writes before it does anything. (Its log says no more than the line on the screen.)
BEGINNINGS = ("*.log", LOCK, "multirun.yaml", "sweep.json")

_new: list[tuple[Path, list[Path]]] = []  # folders that this command has made, with those around them, innermost first


class NewFolders(Callback):
    """Hydra callback that notices which folders Hydra is about to make."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(OmegaConfBaseException):  # a name that cannot be resolved makes no folder, and is refused next
            notice_new(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(OmegaConfBaseException):
            notice_new(Path(config.hydra.sweep.dir))


def notice_new(folder: Path) -> None:
    """Called before a folder is made: remembers whether it, and which of those around it, did not exist."""
    folder = folder.absolute()
    if not folder.exists():
        _new.append((folder, [parent for parent in folder.parents if not parent.exists()]))


def discard_new() -> None:
    """Removes the folders that this command has made and that hold nothing but how it began."""
    for folder, around in _new:
        with suppress(OSError):
            _discard(folder)
            for parent in around:
                parent.rmdir()


def _discard(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            _discard(child)
    left = list(folder.iterdir())
    if all(path.is_file() and any(fnmatch(path.name, name) for name in BEGINNINGS) for path in left):
        for path in left:
            path.unlink()
        folder.rmdir()


@contextmanager
def held(folder: Path, kind: str, instead: str) -> Iterator[None]:
    """Holds a folder's lock, which the operating system frees when its holder dies, however it dies.

    Args:
        kind: of command that holds it: "training" or "sweep".
        instead: what to choose another folder by.

    Raises:
        UserError: another command holds it, or the folder cannot be written to.
    """
    notice_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another {kind} is running in {folder}: wait for it, or choose another {instead}"
            ) from None
        except NotImplementedError:
            log.warning("the file system of %s has no locks: run one %s at a time in it", folder, kind)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another {instead}") from error
    try:
        yield
    finally:
        lock.release()
