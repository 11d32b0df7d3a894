"""Which tokenizer a corpus gets: each spec is an axis value that builds, or finds, a `Tokenizer`."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mdm_lightning.data.hub import fetch_tokenizer, refuse_missing_tokenizer
from mdm_lightning.data.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, from_characters
from mdm_lightning.errors import UserError
from mdm_lightning.files import locked

log = logging.getLogger(__name__)

Documents = Callable[[], Iterable[str]]


class TokenizerSpec(ABC):
    """A recipe for a tokenizer."""

    @abstractmethod
    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        """The tokenizer.

        Args:
            documents: the training texts; called, and read, only if the recipe needs them.
            cache: a folder that belongs to this corpus; every process may call at once, and one does the work.

        Raises:
            UserError: the tokenizer cannot be had or the texts do not suffice.
        """


class Given(TokenizerSpec):
    """A tokenizer that is there already: the one that a checkpoint carries."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        return self.tokenizer


class ByteLevel(TokenizerSpec):
    """One token per byte of UTF-8, id = byte, and one special token (256) for BOS, EOS and PAD."""

    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        vocabulary = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
        tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        return Tokenizer(tokenizer.to_str())


class FromCorpus(TokenizerSpec):
    """A tokenizer made from the corpus once and kept in the cache."""

    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        folder = cache / f"tokenizer-{sha256(self._key().encode()).hexdigest()[:12]}"
        if (known := _kept(folder, quietly=True)) is not None:  # without a lock: the cache may be read-only
            return known
        with locked(folder):
            if (known := _kept(folder)) is not None:
                return known
            content = self._make(documents)
            tokenizer = Tokenizer(content)
            # A file of the folder that is damaged must not survive beside the new ones, nor an old pair be read.
            for stale in folder.glob("*.json"):
                stale.unlink()
            tokenizer.save(folder)
            return tokenizer

    @abstractmethod
    def _key(self) -> str:
        """What, besides the corpus, decides the result."""

    @abstractmethod
    def _make(self, documents: Documents) -> str:
        """The text of the tokenizer.json."""


def _kept(folder: Path, *, quietly: bool = False) -> Tokenizer | None:
    """The tokenizer in a folder of the cache; None if there is none, or it is damaged."""
    if not (folder / "tokenizer.json").exists():
        return None
    try:
        return Tokenizer.load(folder)
    except UserError as error:
        if not quietly:  # whoever holds no lock may have looked while it was being written
            log.warning("%s; it is built again", error)
        return None


class Character(FromCorpus):
    """One token per character; characters that are not in the alphabet become "�".

    Args:
        alphabet: the characters, in the order of their ids; None takes every character of the training texts, sorted.
    """

    def __init__(self, alphabet: str | None = None) -> None:
        if alphabet is not None and not alphabet:
            raise UserError("tokenizer.alphabet is empty; list its characters, or set it to null to use the corpus'")
        self.alphabet = alphabet

    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        if self.alphabet is not None:
            return Tokenizer(from_characters(self.alphabet))
        return super().build(documents, cache)

    def _key(self) -> str:
        return "character"

    def _make(self, documents: Documents) -> str:
        seen: set[str] = set()
        for text in documents():
            seen.update(text)
        if not seen:
            raise UserError("the corpus has no text to take an alphabet from; check data.path=")
        return from_characters(sorted(seen))


class BytePairEncoding(FromCorpus):
    """Byte-level byte pair encoding with GPT-2's pre-tokenisation, trained on the corpus.

    Training is deterministic: ties between pairs are broken by id, and the initial alphabet is sorted.

    Args:
        vocab_size: d, the 256 bytes and the end-of-text token included.
        sample_characters: texts are read from the front of the corpus until they have this many characters.
    """

    def __init__(self, vocab_size: int = 1024, sample_characters: int = 100_000_000) -> None:
        if vocab_size < 257:
            raise UserError(f"tokenizer.vocab_size={vocab_size} is too small: 256 bytes and end-of-text need 257")
        if sample_characters < 1:
            raise UserError(f"tokenizer.sample_characters={sample_characters} should be at least 1")
        self.vocab_size = vocab_size
        self.sample_characters = sample_characters

    def _key(self) -> str:
        return json.dumps(["bpe", self.vocab_size, self.sample_characters])

    def _make(self, documents: Documents) -> str:
        log.info("training a byte pair encoding of %d tokens", self.vocab_size)
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(self._sample(documents()), trainer)
        if tokenizer.get_vocab_size() < self.vocab_size:
            log.warning(
                "the corpus is too small for %d tokens: the vocabulary has %d",
                self.vocab_size,
                tokenizer.get_vocab_size(),
            )
        return tokenizer.to_str()

    def _sample(self, texts: Iterable[str]) -> Iterator[str]:
        left = self.sample_characters
        for text in texts:
            yield text[:left]
            left -= len(text)
            if left <= 0:
                return


class Pretrained(TokenizerSpec):
    """A published tokenizer: a `tokenizer.json`, a folder that contains one, or the name of a model on the hub.

    Args:
        name_or_path: an existing path, or else a hub name, which is looked for in the local hub cache first.
        revision: of the hub repository.
        bos_token: name of the token that text begins with; None for the one that the files declare.
        eos_token: of end-of-text, likewise.
        pad_token: of padding, likewise.
    """

    def __init__(
        self,
        name_or_path: str | None,
        *,
        revision: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        if not name_or_path:
            raise UserError("set tokenizer.name_or_path= to a tokenizer.json, a folder that contains one or a hub name")
        self.name_or_path = name_or_path
        self.revision = revision
        self.special = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}

    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        path = Path(self.name_or_path).expanduser()
        if not path.exists():
            refuse_missing_tokenizer(self.name_or_path)
            path = fetch_tokenizer(self.name_or_path, self.revision)
        return Tokenizer.load(path, **self.special)


class FromTask(TokenizerSpec):
    """No choice: the data set brings its own tokenizer, as the synthetic tasks do."""

    def build(self, documents: Documents, cache: Path) -> Tokenizer:
        raise UserError("this data set is text and needs a tokenizer: choose one, as in tokenizer=bpe")


def _byte_symbols() -> list[str]:
    """The printable character that byte-level tokenizers use for each byte, by byte (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
