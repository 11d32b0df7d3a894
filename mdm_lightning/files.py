"""Files that are whole or absent, and the lock under which one process builds what all of them read."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

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


def to_json(content: Any, *, indent: int | None = 1, default: Callable[[Any], Any] | None = None) -> str:
    """Valid JSON text with a newline at its end. JSON has no NaN and no infinity; they are written as
    ``{"float": "nan"}``, ``{"float": "inf"}`` and ``{"float": "-inf"}``, in every file of this package.

    Args:
        content: mappings, lists, tuples, text and numbers.
        indent: spaces per level; None for a single line.
        default: makes content of anything else.

    Raises:
        TypeError: there is something else, and no default.
    """
    return json.dumps(_encode(content), indent=indent, allow_nan=False, ensure_ascii=False, default=default) + "\n"


def from_json(text: str) -> Any:
    """The content that ``to_json`` wrote.

    Raises:
        ValueError: the text is no JSON.
    """
    try:
        return json.loads(text, object_hook=_decode)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_text(path: Path, newline: str | None = None) -> str:
    """The text of a file.

    Args:
        path: of the file.
        newline: as ``open`` has it; "" leaves line ends as they are.

    Raises:
        UserError: it cannot be read, or is no UTF-8.
    """
    try:
        with path.open(encoding="utf-8", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (damaged or another format); fetch or write it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable or fetch it again") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that somebody else has written; empty if there is no file.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON; fetch it again, or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object; fetch it again, or remove it")
    return content


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


def _encode(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _encode(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_encode(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return {"float": str(content)}
    return content


def _decode(content: dict[str, Any]) -> Any:
    return float(content["float"]) if content.keys() == {"float"} else content


def _sync_folder(folder: Path) -> None:
    # A rename is durable once its folder is synced; some systems cannot open folders, and then there is no way.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
