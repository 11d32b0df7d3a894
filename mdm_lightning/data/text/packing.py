"""Documents joined with EOS into one stream of tokens, and the stream cut into sequences of equal length."""

import logging
from collections.abc import Iterator, Sequence
from unicodedata import normalize

import numpy as np
import torch

from mdm_lightning.data.source import Batch, Example
from mdm_lightning.data.text.corpus import Corpus, Piece
from mdm_lightning.data.token_file import TokenFile, TokenWriter, progress
from mdm_lightning.data.tokenizer.context import encode_after
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)

_BATCH_CHARACTERS = 4 << 20
_CONTEXT = 64  # so many characters of a document in front of a piece decide how it goes on


class PackedBlocks:
    """A token stream cut into sequences; what does not fill a last one is dropped. Every position is maskable.

    Args:
        ends: None, or the ids (BOS, EOS) between which the text of every sequence is put, as MDLM does.
    """

    def __init__(self, file: TokenFile, length: int, ends: tuple[int, int] | None) -> None:
        self.length = length
        self.file = file
        self._ends = ends
        self._text_length = length - 2 if ends else length

    @property
    def stream(self) -> np.ndarray:
        """The whole flat stream `(n_tokens,)`, memory-mapped."""
        return self.file.tokens

    def __len__(self) -> int:
        return self.file.meta.n_tokens // self._text_length

    def maskable_counts(self, indices: Sequence[int]) -> np.ndarray:
        return np.full(len(indices), self.length)

    def __getitem__(self, index: int) -> Example:
        batch = self.__getitems__([index])
        return {"tokens": batch["tokens"][0], "maskable": batch["maskable"][0]}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        text = self.stream[: len(self) * self._text_length].reshape(len(self), self._text_length)[list(indices)]
        tokens = torch.from_numpy(text.astype(np.int64))
        if self._ends:
            bos, eos = (torch.full((len(text), 1), end) for end in self._ends)
            tokens = torch.cat([bos, tokens, eos], dim=1)
        return {"tokens": tokens, "maskable": torch.ones_like(tokens, dtype=torch.bool)}


class InMemory:
    """Sequences `(n, l)` that are at hand. Every position is maskable."""

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens = torch.from_numpy(tokens.astype(np.int64))

    @property
    def stream(self) -> np.ndarray:
        """All tokens, one sequence after another."""
        return self._tokens.flatten().numpy()

    def __len__(self) -> int:
        return len(self._tokens)

    def maskable_counts(self, indices: Sequence[int]) -> np.ndarray:
        return np.full(len(indices), self._tokens.shape[1])

    def __getitem__(self, index: int) -> Example:
        batch = self.__getitems__([index])
        return {"tokens": batch["tokens"][0], "maskable": batch["maskable"][0]}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        tokens = self._tokens[list(indices)]
        return {"tokens": tokens, "maskable": torch.ones_like(tokens, dtype=torch.bool)}


def tokenize(
    corpus: Corpus, tokenizer: Tokenizer, writer: TokenWriter, *, name: str, limit: int | None, decode: bool = False
) -> None:
    """Write a corpus as one stream of ids, EOS after every document; empty documents leave no trace.

    Args:
        limit: stop after the batch of documents in which the stream reaches this many tokens.
        decode: see whether the tokens give the text back, for `TokenMeta.n_bytes_changed`.

    Raises:
        UserError: there is no text at all.
    """
    log.info("tokenizing %s", name)
    unknown = 0
    in_document = False
    before = ""
    with progress(f"tokenizing {name}", "tok") as bar:
        for batch in _batches(corpus.pieces()):
            stream: list[int] = []
            befores = []
            for piece in batch:
                befores.append(before)
                before = "" if piece.last else (before + piece.text)[-_CONTEXT:]
            encoded = encode_after(tokenizer, befores, [piece.text for piece in batch])
            if decode:
                writer.n_bytes_changed += _bytes_changed(tokenizer, batch, befores, encoded)
            for piece, ids in zip(batch, encoded, strict=True):
                in_document |= bool(piece.text)
                ended = piece.last and in_document
                if tokenizer.unknown_id is not None:
                    unknown += ids.count(tokenizer.unknown_id)
                stream.extend(ids)
                if ended:
                    stream.append(tokenizer.eos_id)
                writer.n_documents += ended
                writer.n_bytes += len(piece.text.encode())
                in_document &= not piece.last
            writer.write(stream)
            bar.update(len(stream))
            if limit is not None and writer.n_tokens >= limit:
                break
    if not writer.n_tokens:
        raise UserError(f"{name}: there is no text; check data.path= and data.text_field=")
    if unknown:
        log.warning("%d of the %d tokens of %s stand for unknown characters", unknown, writer.n_tokens, name)


def _bytes_changed(tokenizer: Tokenizer, pieces: list[Piece], befores: list[str], encoded: list[list[int]]) -> int:
    """Bytes of the pieces that their ids do not give back.

    Characters that Unicode holds for the same, though it spells them in several ways, count as given back.
    """
    changed = 0
    fronts = tokenizer.encode_batch(befores)
    for piece, front, ids in zip(pieces, fronts, encoded, strict=True):
        text = tokenizer.decode(ids, after=front, skip_special=False)
        if text != piece.text and normalize("NFC", text) != normalize("NFC", piece.text):
            changed += len(piece.text.encode())
    return changed


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
