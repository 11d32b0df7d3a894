"""Distributions small enough to enumerate, and data drawn from them: the paper's two toys, and any distribution given
as a table."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from torch import Tensor

from mdm_lightning.data.source import PreparedData, Source, digest
from mdm_lightning.data.tasks.base import Rows
from mdm_lightning.data.token_file import TokenWriter, cached_tokens
from mdm_lightning.data.tokenizer.spec import FromTask, TokenizerSpec
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Distribution:
    """A distribution over sequences of equal length, as a table.

    Args:
        sequences: the sequences of positive probability, each once.
        probabilities: their probabilities, which sum to one (within 1e-6).
        vocab_size: d; tokens are 0 ... d - 1.
        name: what reports call it.

    Raises:
        ValueError: the arguments do not describe a distribution.
    """

    sequences: Sequence[Sequence[int]]
    probabilities: Sequence[float]
    vocab_size: int
    name: str = "distribution"

    def __post_init__(self) -> None:
        rows = tuple(tuple(sequence) for sequence in self.sequences)
        weights = tuple(float(p) for p in self.probabilities)
        if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
            raise ValueError("sequences must be non-empty and of equal length")
        if len(set(rows)) < len(rows):
            raise ValueError("a sequence occurs twice")
        if not all(isinstance(token, int) and 0 <= token < self.vocab_size for row in rows for token in row):
            raise ValueError(f"tokens must be whole numbers from 0 to {self.vocab_size - 1}")
        if len(weights) != len(rows):
            raise ValueError(f"{len(rows)} sequences but {len(weights)} probabilities")
        total = math.fsum(weights)
        if not all(p > 0 for p in weights) or not abs(total - 1) <= 1e-6:
            raise ValueError(f"probabilities must be positive and sum to 1; they sum to {total:g}")
        object.__setattr__(self, "sequences", rows)
        object.__setattr__(self, "probabilities", tuple(p / total for p in weights))

    @property
    def length(self) -> int:
        """n, tokens per sequence."""
        return len(self.sequences[0])

    @classmethod
    def uniform(cls, sequences: Sequence[Sequence[int]], vocab_size: int, name: str = "distribution") -> "Distribution":
        """Equal probabilities."""
        return cls(sequences, [1 / len(sequences)] * len(sequences), vocab_size, name)

    @classmethod
    def from_json(cls, path: str | Path) -> "Distribution":
        """Reads a table of the form ``{"sequences": ["aab", "bba"], "probabilities": [0.25, 0.75]}``.

        A sequence is a list of token ids or a string, whose characters become tokens in their order in Unicode. Without
        "probabilities" all are equal; "vocab_size" may name more tokens than occur.

        Raises:
            UserError: the file cannot be read or does not describe a distribution.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UserError(
                f"cannot read the distribution {path}: {error.strerror}; set data.path= to a JSON file"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text; set data.path= to a JSON file") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        try:
            if not isinstance(content, dict) or "sequences" not in content:
                raise ValueError("it has no sequences")
            sequences = _token_ids(content["sequences"])
            vocab_size = content.get("vocab_size", 1 + max(max(row, default=0) for row in sequences))
            probabilities = content.get("probabilities", [1 / len(sequences)] * len(sequences))
            return cls(sequences, probabilities, vocab_size, path.stem)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f'{path} is no distribution ({error}); it should look like {{"sequences": ["ab", "ba"], '
                '"probabilities": [0.5, 0.5]}'
            ) from error


def extremes(length: int = 5) -> Distribution:
    """Uniform on {aa...a, bb...b} (the paper's figure 4): every position tells all others."""
    return Distribution.uniform([(0,) * length, (1,) * length], vocab_size=2, name="extremes")


def balanced(length: int = 5) -> Distribution:
    """Uniform on the sequences of a's and b's with as many of both, give or take one (the paper's figure 4)."""
    sequences = [x for x in itertools.product((0, 1), repeat=length) if abs(length - 2 * sum(x)) <= 1]
    return Distribution.uniform(sequences, vocab_size=2, name="balanced")


class Letters(Tokenizer):
    """One letter per token of a distribution, and nothing else: a denoiser over it has exactly the distribution's d
    outcomes.

    There is no end-of-text, so no id is left out in decoding.

    Args:
        size: d, at most 52.

    Raises:
        UserError: there are not that many letters.
    """

    def __init__(self, size: int) -> None:
        if size > len(_LETTERS):
            raise UserError(
                f"a distribution over {size} tokens has no letters for them: use at most {len(_LETTERS)} tokens"
            )
        spelled = tokenizers.Tokenizer(BPE({letter: i for i, letter in enumerate(_LETTERS[:size])}, []))
        spelled.decoder = Fuse()  # pyright: ignore[reportAttributeAccessIssue]
        # Every tokenizer names an end-of-text, which only text that is packed makes use of.
        super().__init__(spelled.to_str(), eos_token=_LETTERS[0])

    def __reduce__(self) -> tuple[object, ...]:
        return Letters, (self.vocab_size,)

    def decode(
        self,
        ids: Iterable[int] | Tensor | np.ndarray,
        *,
        after: Iterable[int] | Tensor | np.ndarray = (),
        skip_special: bool = True,
    ) -> str:
        return super().decode(ids, after=after, skip_special=False)


class DistributionSource(Source):
    """Sequences drawn independently from a distribution, and the distribution itself.

    Args:
        distribution: where they are drawn from.
        train: number of training sequences.
        validation: number of validation sequences.
        seed: of the draws.

    Raises:
        UserError: a split is empty, or the distribution has more tokens than there are letters.
    """

    def __init__(self, distribution: Distribution, *, train: int, validation: int, seed: int) -> None:
        if train < 1 or validation < 1:
            raise UserError(f"data.train={train} and data.validation={validation} should both be at least 1")
        self.distribution = distribution
        self.length = distribution.length
        self.sizes = (train, validation)
        self.seed = seed

    @cached_property
    def tokenizer(self) -> Letters:
        """One letter per token."""
        return Letters(self.distribution.vocab_size)

    @property
    def fingerprint(self) -> str:
        """Of the distribution: equal exactly where sequences, probabilities and vocabulary are."""
        return digest("distribution", asdict(self.distribution))

    def prepare(self, tokenizer: TokenizerSpec | None, cache: Path) -> PreparedData:
        if not isinstance(tokenizer, FromTask | None):
            raise UserError(f"data={self.name} brings its own tokenizer: leave out tokenizer=, or use tokenizer=task")
        identity = digest(self.fingerprint, self.seed)
        train, validation = (self._split(number, identity, cache) for number in range(len(_SPLITS)))
        return PreparedData(
            name=self.name,
            tokenizer=self.tokenizer,
            length=self.length,
            train=train,
            validation=validation,
            bytes_per_position=None,
            fingerprint=digest(identity, self.sizes),
        )

    def _split(self, number: int, identity: str, cache: Path) -> Rows:
        size = self.sizes[number]

        def produce(writer: TokenWriter) -> None:
            rng = np.random.default_rng([self.seed, number])
            drawn = rng.choice(len(self.distribution.sequences), size, p=self.distribution.probabilities)
            writer.write(np.asarray(self.distribution.sequences)[drawn].ravel())

        path = Path(cache).expanduser() / f"{self.name}-{identity}" / f"{_SPLITS[number]}-{size}.tokens"
        fingerprint = digest(identity, _SPLITS[number], size)
        return Rows(
            cached_tokens(path, fingerprint, self.distribution.vocab_size, produce), self.length, prompt_length=0
        )


class Extremes(DistributionSource):
    """``data=toy_extremes``: see ``extremes``."""

    name = "toy_extremes"

    def __init__(self, *, length: int, train: int, validation: int, seed: int) -> None:
        super().__init__(extremes(length), train=train, validation=validation, seed=seed)


class Balanced(DistributionSource):
    """``data=toy_balanced``: see ``balanced``."""

    name = "toy_balanced"

    def __init__(self, *, length: int, train: int, validation: int, seed: int) -> None:
        super().__init__(balanced(length), train=train, validation=validation, seed=seed)


class Table(DistributionSource):
    """``data=toy data.path=FILE``: see ``Distribution.from_json``."""

    name = "toy"

    def __init__(self, path: str | None, *, train: int, validation: int, seed: int) -> None:
        if path is None:
            raise UserError("data=toy needs data.path=: a JSON file with sequences and their probabilities")
        super().__init__(Distribution.from_json(path), train=train, validation=validation, seed=seed)


def _token_ids(sequences: Any) -> list[list[int]]:
    """Sequences as ids: strings are spelled in the alphabet of all characters that occur."""
    if not isinstance(sequences, list) or not sequences:
        raise ValueError("sequences must be a list")
    if not all(isinstance(sequence, str) for sequence in sequences):
        if not all(isinstance(token, int) for sequence in sequences for token in sequence):
            raise ValueError("sequences must be texts, or lists of whole numbers")
        return [list(sequence) for sequence in sequences]
    alphabet = sorted(set("".join(sequences)))
    return [[alphabet.index(character) for character in sequence] for sequence in sequences]
