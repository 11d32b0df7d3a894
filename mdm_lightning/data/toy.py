"""Laws small enough to enumerate: the paper's two toys, and any law given as a table."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdm_lightning.errors import UserError


@dataclass(frozen=True)
class Law:
    """A law over sequences of equal length, as a table.

    Args:
        sequences: the sequences of positive probability, each once.
        probabilities: their probabilities, which sum to one (within 1e-6).
        vocab_size: d; tokens are 0 ... d - 1.
        name: what reports call it.

    Raises:
        ValueError: the arguments do not describe a law.
    """

    sequences: Sequence[Sequence[int]]
    probabilities: Sequence[float]
    vocab_size: int
    name: str = "law"

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
    def uniform(cls, sequences: Sequence[Sequence[int]], vocab_size: int, name: str = "law") -> "Law":
        """Equal probabilities."""
        return cls(sequences, [1 / len(sequences)] * len(sequences), vocab_size, name)

    @classmethod
    def from_json(cls, path: str | Path) -> "Law":
        """Reads a table of the form ``{"sequences": ["aab", "bba"], "probabilities": [0.25, 0.75]}``.

        A sequence is a list of token ids or a string, whose characters become tokens in their order in Unicode. Without
        "probabilities" all are equal; "vocab_size" may name more tokens than occur.

        Raises:
            UserError: the file cannot be read or does not describe a law.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the law {path}: {error.strerror}; set data.path= to a JSON file") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        try:
            sequences = _token_ids(content["sequences"])
            vocab_size = content.get("vocab_size", 1 + max(max(row, default=0) for row in sequences))
            probabilities = content.get("probabilities", [1 / len(sequences)] * len(sequences))
            return cls(sequences, probabilities, vocab_size, path.stem)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f'{path} is no law ({error}); it should look like {{"sequences": ["ab", "ba"], '
                '"probabilities": [0.5, 0.5]}'
            ) from error


def extremes(length: int = 5) -> Law:
    """Uniform on {aa...a, bb...b} (the paper's figure 4): every position tells all others."""
    return Law.uniform([(0,) * length, (1,) * length], vocab_size=2, name="extremes")


def balanced(length: int = 5) -> Law:
    """Uniform on the sequences of a's and b's with as many of both, give or take one (the paper's figure 4)."""
    sequences = [x for x in itertools.product((0, 1), repeat=length) if abs(length - 2 * sum(x)) <= 1]
    return Law.uniform(sequences, vocab_size=2, name="balanced")


def _token_ids(sequences: Any) -> list[list[int]]:
    """Sequences as ids: strings are spelled in the alphabet of all characters that occur."""
    if not isinstance(sequences, list) or not sequences:
        raise ValueError("sequences must be a list")
    if not all(isinstance(sequence, str) for sequence in sequences):
        return [list(sequence) for sequence in sequences]
    alphabet = sorted(set("".join(sequences)))
    return [[alphabet.index(character) for character in sequence] for sequence in sequences]
