"""Corpora: documents that are streamed, in a fixed order, as often as needed."""

import glob
import gzip
import json
import logging
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

PIECE_CHARACTERS = 1 << 20
_HASHED_BYTES = 64 << 20


class Piece(NamedTuple):
    """A stretch of a document; a document that fits into memory easily is one piece."""

    text: str
    last: bool
    """Whether the document ends here."""


class Corpus(ABC):
    """Documents in a fixed order; streaming them twice gives the same pieces."""

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """All documents, in order, the empty ones too."""

    def count(self) -> int | None:
        """Number of documents; None where it is not known and counting would stream a remote corpus."""
        return sum(piece.last for piece in self.pieces())

    def texts(self) -> Iterator[str]:
        """All text, without regard to where documents end."""
        return (piece.text for piece in self.pieces())

    def has_documents(self, count: int) -> bool:
        """Whether there are at least so many documents; reads no further than it must."""
        return sum(1 for _ in islice((piece for piece in self.pieces() if piece.last), count)) == count


class FileCorpus(Corpus):
    """Local files in the order given: .txt, .md and .py are a document each, .jsonl and .parquet one per row.

    All but parquet may be gzipped. A file with any other name is read as text.

    Args:
        text_field: the column of .jsonl and .parquet that holds the text.
        skip_undecodable: leave out files that are not UTF-8 instead of raising.

    `pieces` raises UserError for what cannot be read.
    """

    def __init__(self, files: Sequence[Path], *, text_field: str = "text", skip_undecodable: bool = False) -> None:
        self.files = list(files)
        self.text_field = text_field
        self.skip_undecodable = skip_undecodable

    def pieces(self) -> Iterator[Piece]:
        for file in self.files:
            with reading(file, skip_undecodable=self.skip_undecodable):
                if is_table(file):
                    yield from (Piece(text, True) for (text,) in table_rows(file, {"text_field": self.text_field}))
                else:
                    # No newline translation: what is written is what is modelled.
                    yield from _text_pieces(_open_text(file, newline=""))

    def count(self) -> int:
        if all(file.suffix == ".parquet" for file in self.files):
            return sum(_parquet_file(file).metadata.num_rows for file in self.files)
        return sum(piece.last for piece in self.pieces())


class TableCorpus(Corpus):
    """A column of a `datasets.Dataset` or `IterableDataset`."""

    def __init__(self, table, text_field: str, name: str) -> None:
        columns = table.column_names
        if columns is not None and text_field not in columns:
            raise _missing_field(name, text_field, columns, "text_field")
        self.table = table
        self.text_field = text_field
        self.name = name

    def pieces(self) -> Iterator[Piece]:
        for batch in self.table.iter(batch_size=1000):
            if self.text_field not in batch:
                raise _missing_field(self.name, self.text_field, batch, "text_field")
            for value in batch[self.text_field]:
                yield Piece(_text(value, self.name, self.text_field, "text_field"), True)

    def count(self) -> int | None:
        return len(self.table) if hasattr(self.table, "__len__") else None


class Grouped(Corpus):
    """Rows joined into documents: a row that matches a pattern begins a document, the others continue it."""

    def __init__(self, rows: Corpus, beginning: str) -> None:
        self.rows = rows
        self.beginning = re.compile(beginning)

    def pieces(self) -> Iterator[Piece]:
        held = None
        for text in self.rows.texts():
            if held is not None:
                yield Piece(held, self.beginning.match(text) is not None)
            held = text
        if held is not None:
            yield Piece(held, True)

    def count(self) -> int:
        return sum(piece.last for piece in self.pieces())


def is_table(file: Path) -> bool:
    """Whether a file's name says that it has rows of named fields, rather than text."""
    return file.suffix == ".parquet" or file.name.endswith((".jsonl", ".jsonl.gz"))


def table_rows(file: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The texts in some of the fields of a .jsonl or .parquet file, row by row; null stands for no text.

    Args:
        fields: their names, by the option of `data=` that gives each.

    Raises:
        UserError: a row cannot be read, or lacks a field, or has no text there.
    """
    return _parquet_rows(file, fields) if file.suffix == ".parquet" else _jsonl_rows(file, fields)


@contextmanager
def reading(file: Path, *, skip_undecodable: bool = False) -> Iterator[None]:
    """A block that reads a file, in which whatever can be wrong with it becomes a UserError.

    Args:
        skip_undecodable: end the block quietly where the file is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        if not skip_undecodable:
            raise UserError(f"{file} is not UTF-8 text; convert it or leave it out of data.path=") from error
        log.debug("left out %s, which is not UTF-8", file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; check data.path=") from error


def refuse_missing(path: Path | str, option: str) -> None:
    """Raises:
    UserError: there is nothing at a path that may be a file, a folder or a glob.
    """
    text = str(Path(path).expanduser())
    if not Path(text).exists() and not any(glob.iglob(text, recursive=True)):
        raise _nothing_at(text, option)


def _nothing_at(path: str, option: str) -> UserError:
    return UserError(f"{path} does not exist or matches no file; check {option}=")


def find_files(path: Path | str, suffixes: Iterable[str]) -> list[Path]:
    """Files of a path, sorted: the file itself, a folder's files with one of the suffixes, or a glob's matches.

    A suffix also stands for its gzipped form. Hidden files and folders are left out.

    Raises:
        UserError: nothing is found.
    """
    text = str(Path(path).expanduser())
    endings = tuple(ending for suffix in suffixes for ending in (suffix, f"{suffix}.gz"))
    root = Path(text)
    if root.is_file():
        return [root]
    if root.is_dir():
        found = [f for f in root.rglob("*") if f.name.endswith(endings) and not _hidden(f.relative_to(root))]
    else:
        found = [Path(match) for match in glob.glob(text, recursive=True)]
    files = sorted((f for f in found if f.is_file()), key=lambda f: f.as_posix())
    if files:
        return files
    if root.is_dir():
        raise UserError(f"{root} contains none of {', '.join(endings)}; check data.path=")
    raise _nothing_at(text, "data.path")


def files_identity(files: Sequence[Path]) -> str:
    """A hash that changes when the files do: their content if small, else their paths, sizes and times."""
    digest = sha256()
    stats = [file.stat() for file in files]
    small = sum(stat.st_size for stat in stats) <= _HASHED_BYTES
    for file, stat in zip(files, stats, strict=True):
        # The folder may move when the content is known.
        name = file.name if small else str(file.resolve())
        digest.update(f"{name}\0{stat.st_size}\0".encode())
        digest.update(sha256(file.read_bytes()).digest() if small else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text_pieces(handle: IO[str]) -> Iterator[Piece]:
    with handle:
        pending = handle.read(PIECE_CHARACTERS)
        while block := handle.read(PIECE_CHARACTERS):
            cut = _boundary(pending)
            yield Piece(pending[:cut], False)
            pending = pending[cut:] + block
        if pending:
            yield Piece(pending, True)


def _boundary(text: str) -> int:
    """Where a text can be cut so that byte-level pre-tokenisers see the same words on both sides as in the whole."""
    start = max(0, len(text) - (1 << 16))
    for pattern in (r"(?<=\S\n)(?=\S)", r"(?<=\S)(?= \S)"):
        found = [match.start() for match in re.finditer(pattern, text[start:])]
        if found:
            return start + found[-1]
    return len(text)


def _open_text(file: Path, *, newline: str) -> IO[str]:
    open_text = gzip.open if file.suffix == ".gz" else open
    # utf-8-sig: without the byte order mark with which some editors begin.
    return open_text(file, "rt", encoding="utf-8-sig", newline=newline)  # pyright: ignore[reportReturnType]


def _jsonl_rows(file: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    with _open_text(file, newline="\n") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                if isinstance(error, UnicodeDecodeError):
                    raise
                raise UserError(f"{where} is not valid JSON; mend or remove the line") from error
            for option, field in fields.items():
                if not isinstance(row, dict) or field not in row:
                    raise _missing_field(where, field, row if isinstance(row, dict) else (), option)
            yield tuple(_text(row[field], where, field, option) for option, field in fields.items())


def _parquet_rows(file: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    table = _parquet_file(file)
    present = table.schema_arrow.names
    for option, field in fields.items():
        if field not in present:
            raise _missing_field(str(file), field, present, option)
    for batch in table.iter_batches(batch_size=1000, columns=[*fields.values()]):
        for row in zip(*(batch.column(field).to_pylist() for field in fields.values()), strict=True):
            texts = zip(row, fields.items(), strict=True)
            yield tuple(_text(value, str(file), field, option) for value, (option, field) in texts)


def _parquet_file(file: Path):
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file} is not a valid parquet file; fetch it again") from error


def _text(value: object, where: str, field: str, option: str) -> str:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: field {field!r} is no text but {type(value).__name__}; set data.{option}=")
    text = value or ""
    # JSON can spell half a surrogate pair, which is no character and has no UTF-8.
    return text if text.isascii() else text.encode(errors="replace").decode()


def _missing_field(where: str, field: str, present: Iterable[str], option: str) -> UserError:
    names = ", ".join(present) or "none"
    return UserError(f"{where} has no field {field!r}; set data.{option}= to one of: {names}")
