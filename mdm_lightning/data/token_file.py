"""The token cache: flat memory-mapped files of token ids, each with a sidecar by which it is verified when opened."""

import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from mdm_lightning.errors import UserError
from mdm_lightning.files import locked, remove_leftovers, replacing, write_atomically

log = logging.getLogger(__name__)

_FORMAT = 2
_CHUNK_BYTES = 16 << 20
_BAR_FROM_BYTES = 1 << 30


@dataclass(frozen=True)
class TokenMeta:
    """The sidecar of a token file.

    Attributes:
        n_bytes: of UTF-8 in the text.
        n_bytes_changed: in those pieces of it that the tokens do not give back exactly, where that was looked at.
        crc32: one entry per chunk of 16 MiB.
    """

    fingerprint: str
    dtype: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    n_bytes_changed: int
    crc32: list[int]
    format: int = _FORMAT


class TokenFile:
    """An opened and verified token file. Pickles as its path: workers map the file instead of receiving a copy."""

    def __init__(self, path: Path, meta: TokenMeta) -> None:
        self.path = path
        self.meta = meta

    @cached_property
    def tokens(self) -> np.ndarray:
        """All ids `(n_tokens,)`, read-only, uint16 or uint32."""
        if not self.meta.n_tokens:
            return np.empty(0, self.meta.dtype)
        return np.memmap(self.path, dtype=self.meta.dtype, mode="r", shape=(self.meta.n_tokens,))

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "meta": self.meta}


class TokenWriter:
    """Receives the ids of a token file being built, in order.

    Args:
        vocab_size: ids must be below it.
    """

    def __init__(self, file: BinaryIO, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.dtype = "<u2" if vocab_size <= 1 << 16 else "<u4"
        self.n_tokens = 0
        self.n_documents = 0
        self.n_bytes = 0
        self.n_bytes_changed = 0
        self._file = file
        self._crc32: list[int] = []
        self._room = 0

    def write(self, ids: Sequence[int] | np.ndarray) -> None:
        """Append ids.

        Raises:
            UserError: an id is beyond the vocabulary, or the disk is full.
        """
        array = np.asarray(ids, dtype=np.int64)
        if not array.size:
            return
        if array.min() < 0 or array.max() >= self.vocab_size:
            raise UserError(
                f"token id {array.max() if array.min() >= 0 else array.min()} is beyond the vocabulary of "
                f"{self.vocab_size}: the tokenizer contradicts itself; choose another tokenizer="
            )
        data = memoryview(array.astype(self.dtype).tobytes())
        try:
            self._file.write(data)
        except OSError as error:
            raise UserError(f"cannot write the token cache: {error.strerror}; free space or move the cache") from error
        self.n_tokens += array.size
        while data:
            if not self._room:
                self._crc32.append(0)
                self._room = _CHUNK_BYTES
            part, data = data[: self._room], data[self._room :]
            self._crc32[-1] = zlib.crc32(part, self._crc32[-1])
            self._room -= len(part)

    def meta(self, fingerprint: str) -> TokenMeta:
        """What was written so far."""
        counts = self.n_tokens, self.n_documents, self.n_bytes, self.n_bytes_changed
        return TokenMeta(fingerprint, self.dtype, *counts, self._crc32)


def cached_tokens(path: Path, fingerprint: str, vocab_size: int, produce: Callable[[TokenWriter], None]) -> TokenFile:
    """Open a token file, building it first if it is absent, damaged or of another fingerprint.

    Every process may call at once: one builds, the others wait and open what it built.

    Args:
        produce: writes all ids into the writer that it is given.

    Raises:
        UserError: the cache cannot be written, or what `produce` raises.
    """
    opened, _ = _open(path, fingerprint)
    if opened is None:
        with locked(path.parent):
            # Only now is it certain that no other process is halfway through writing it.
            opened, problem = _open(path, fingerprint)
            if opened is None:
                if problem:
                    log.warning("%s %s; it is built again", path, problem)
                _build(path, fingerprint, vocab_size, produce)
                opened, _ = _open(path, fingerprint)
    if opened is None:
        raise UserError(f"{path} differs from what was just written to it: check the disk, or move the cache")
    return opened


def progress(description: str, unit: str, total: int | None = None) -> tqdm:
    """A progress bar on stderr that does not flood a log file."""
    seconds = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(desc=description, unit=unit, total=total, unit_scale=True, mininterval=seconds, file=sys.stderr)


def _open(path: Path, fingerprint: str) -> tuple[TokenFile | None, str]:
    """Open and verify a token file; otherwise None and why it is not to be trusted, "" if it is simply absent."""
    if not path.exists() and not _sidecar(path).exists():
        return None, ""
    meta = _read_meta(path)
    if meta is None:
        return None, "has no readable sidecar"
    if meta.fingerprint != fingerprint or meta.format != _FORMAT:
        return None, "was made from other data or settings"
    if not path.exists() or path.stat().st_size != meta.n_tokens * np.dtype(meta.dtype).itemsize:
        return None, "does not have the size that its sidecar tells"
    if _checksums(path) != meta.crc32:
        return None, "is damaged: its checksum is wrong"
    return TokenFile(path, meta), ""


def _build(path: Path, fingerprint: str, vocab_size: int, produce: Callable[[TokenWriter], None]) -> None:
    remove_leftovers(path)
    remove_leftovers(_sidecar(path))
    with replacing(path) as file:
        writer = TokenWriter(file, vocab_size)
        produce(writer)
    # Last, so that whatever happens in between leaves a pair that does not fit together.
    write_atomically(_sidecar(path), json.dumps(asdict(writer.meta(fingerprint))))


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_meta(path: Path) -> TokenMeta | None:
    try:
        return TokenMeta(**json.loads(_sidecar(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _checksums(path: Path) -> list[int]:
    size = path.stat().st_size
    offsets = range(0, size, _CHUNK_BYTES)

    def checksum(offset: int) -> int:
        with path.open("rb") as file:
            file.seek(offset)
            return zlib.crc32(file.read(_CHUNK_BYTES))

    result = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(
            desc=f"verifying {path.name}", total=size, unit="B", unit_scale=True, disable=size < _BAR_FROM_BYTES
        ) as bar,
    ):
        for value in pool.map(checksum, offsets):
            result.append(value)
            bar.update(min(_CHUNK_BYTES, size - bar.n))
    return result
