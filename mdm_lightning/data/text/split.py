"""How a corpus is divided into training and validation text."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from hashlib import blake2b

from mdm_lightning.data.text.corpus import Corpus, Piece
from mdm_lightning.errors import UserError

log = logging.getLogger(__name__)


class Split(ABC):
    """A rule that takes the published splits of a corpus ("train", and "validation" or "test" where they exist)."""

    @abstractmethod
    def divide(self, corpora: Mapping[str, Corpus]) -> tuple[Corpus, Corpus]:
        """The training and the validation corpus, disjoint."""


class ByHash(Split):
    """A fraction of the documents, chosen by a hash of their text, so duplicates fall on the same side.

    A corpus of so few documents that none might be chosen is divided within its documents instead.
    """

    def __init__(self, fraction: float = 0.05) -> None:
        self.fraction = _proper_fraction(fraction)

    def divide(self, corpora: Mapping[str, Corpus]) -> tuple[Corpus, Corpus]:
        corpus = corpora["train"]
        if not corpus.has_documents(plenty(self.fraction)):
            return _within_documents(corpus, self.fraction)
        return _Hashed(corpus, self.fraction, chosen=False), _Hashed(corpus, self.fraction, chosen=True)


class ByCharacter(Split):
    """Stretches of every document, as fractions of its characters: text8 is 0 to 0.9 and 0.9 to 0.95."""

    def __init__(self, train_end: float = 0.9, validation_end: float = 1.0) -> None:
        if not 0 < train_end < validation_end <= 1:
            raise UserError(f"need 0 < train_end < validation_end <= 1, not {train_end} and {validation_end}")
        self.train_end = train_end
        self.validation_end = validation_end

    def divide(self, corpora: Mapping[str, Corpus]) -> tuple[Corpus, Corpus]:
        lengths = [0]
        for piece in corpora["train"].pieces():
            lengths[-1] += len(piece.text)
            if piece.last:
                lengths.append(0)
        corpus = corpora["train"]
        return _Span(corpus, lengths, 0.0, self.train_end), _Span(corpus, lengths, self.train_end, self.validation_end)


class LastDocuments(Split):
    """The last `count` documents are validation: 100,000 of OpenWebText in MDLM. At most a tenth of a small copy."""

    def __init__(self, count: int) -> None:
        self.count = _positive(count)

    def divide(self, corpora: Mapping[str, Corpus]) -> tuple[Corpus, Corpus]:
        corpus = corpora["train"]
        total = corpus.count()
        if total is None:
            raise UserError(
                "a streamed corpus has no last documents; choose another data.split or data.streaming=false"
            )
        count = _capped(self.count, total)
        if not count:
            return _within_documents(corpus, 0.1)
        return _Range(corpus, 0, total - count), _Range(corpus, total - count, total)


class FirstDocuments(Split):
    """The first `count` documents are validation, for corpora that are streamed. At most a tenth of a small copy."""

    def __init__(self, count: int) -> None:
        self.count = _positive(count)

    def divide(self, corpora: Mapping[str, Corpus]) -> tuple[Corpus, Corpus]:
        corpus = corpora["train"]
        total = corpus.count()
        count = self.count if total is None else _capped(self.count, total)
        if not count:
            return _within_documents(corpus, 0.1)
        return _Range(corpus, count, None), _Range(corpus, 0, count)


class Published(Split):
    """The published split of that name is validation; a copy without it is divided by another rule."""

    def __init__(self, validation: str = "validation", otherwise: Split | None = None) -> None:
        self.validation = validation
        self.otherwise = otherwise or ByHash()

    def divide(self, corpora: Mapping[str, Corpus]) -> tuple[Corpus, Corpus]:
        if self.validation in corpora:
            return corpora["train"], corpora[self.validation]
        log.info("no %s split here: some of the training text is set aside", self.validation)
        return self.otherwise.divide(corpora)


class _Hashed(Corpus):
    def __init__(self, corpus: Corpus, fraction: float, *, chosen: bool) -> None:
        self.corpus = corpus
        self.threshold = int(fraction * 2**64)
        self.chosen = chosen

    def pieces(self) -> Iterator[Piece]:
        beginning, keep = True, False
        for piece in self.corpus.pieces():
            if beginning:
                keep = (text_hash(piece.text) < self.threshold) == self.chosen
            if keep:
                yield piece
            beginning = piece.last


class _Range(Corpus):
    def __init__(self, corpus: Corpus, start: int, stop: int | None) -> None:
        self.corpus = corpus
        self.start = start
        self.stop = stop

    def pieces(self) -> Iterator[Piece]:
        number = 0
        for piece in self.corpus.pieces():
            if self.stop is not None and number >= self.stop:
                return
            if number >= self.start:
                yield piece
            number += piece.last


class _Span(Corpus):
    def __init__(self, corpus: Corpus, lengths: list[int], begin: float, end: float) -> None:
        self.corpus = corpus
        self.lengths = lengths
        self.begin = begin
        self.end = end

    def pieces(self) -> Iterator[Piece]:
        number = offset = 0
        for piece in self.corpus.pieces():
            begin, end = round(self.lengths[number] * self.begin), round(self.lengths[number] * self.end)
            text = piece.text[max(0, begin - offset) : max(0, end - offset)]
            offset += len(piece.text)
            if text:
                yield Piece(text, offset >= end)
            if piece.last:
                number, offset = number + 1, 0


def text_hash(text: str) -> int:
    """64 bits by which a text is assigned to a split."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def plenty(fraction: float) -> int:
    """So many documents that a fraction of them, chosen by hashes, is certainly not empty."""
    # 20 expected documents make an empty validation split a matter of e^-20.
    return math.ceil(20 / fraction)


def _within_documents(corpus: Corpus, fraction: float) -> tuple[Corpus, Corpus]:
    log.info("few documents: the last %g %% of each is validation", 100 * fraction)
    return ByCharacter(1 - fraction).divide({"train": corpus})


def _capped(count: int, total: int) -> int:
    if count > total // 10:
        log.info("small corpus: %d of its %d documents, not %d, are validation", total // 10, total, count)
    return min(count, total // 10)


def _positive(count: int) -> int:
    if count < 1:
        raise UserError(f"data.split.count={count} should be at least 1")
    return count


def _proper_fraction(fraction: float) -> float:
    if not 0 < fraction < 1:
        raise UserError(f"the validation fraction should be between 0 and 1, not {fraction}")
    return fraction
