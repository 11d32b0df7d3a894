"""What `data=` chooses: a `Source` turns into `PreparedData`, the sequences and the tokenizer that a model sees."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from mdm_lightning.data.tokenizer.spec import TokenizerSpec
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer


class Batch(TypedDict):
    """Sequences `(b, l)` of one length, clean."""

    tokens: Int64[Tensor, "b l"]
    maskable: Bool[Tensor, "b l"]
    """Positions that may be masked and count in the loss."""


class Example(TypedDict):
    """One sequence of a `Batch`."""

    tokens: Int64[Tensor, " l"]
    maskable: Bool[Tensor, " l"]


class Sequences(Protocol):
    """A map-style data set that gathers a whole batch at once."""

    @property
    def stream(self) -> np.ndarray:
        """The ids `(n_tokens,)` as they are stored, one after another, without what packing adds; memory-mapped."""
        ...

    def __len__(self) -> int: ...

    def maskable_counts(self, indices: Sequence[int]) -> Int64[np.ndarray, " b"]:
        """Numbers of maskable positions, without reading the sequences."""
        ...

    def __getitem__(self, index: int) -> Example: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


class Verdict(NamedTuple):
    """What a task says of a response: whether it is well-formed, and whether it solves the problem."""

    valid: bool
    correct: bool


class Task(Protocol):
    """A problem with responses that can be checked by rule. The prompt comes first and is never masked."""

    prompt_length: int

    def check(self, tokens: Sequence[int] | Tensor) -> Verdict:
        """Judge a whole sequence `(l,)`, prompt and response."""
        ...


@dataclass(frozen=True)
class PreparedData:
    """Everything that training and evaluation need to know of a data set.

    Attributes:
        length: positions per sequence, l.
        bytes_per_position: UTF-8 bytes of validation text per maskable position, so that bits per byte =
            nats per position / ln 2 / this; None for tasks, for prompts with responses, and where the tokenizer
            changes text.
        fingerprint: equal exactly where the source, the tokenizer and the packing are.
        task: the checker of a synthetic task; None for text.
        changed_text: share of the validation text, in bytes of whole documents or pieces of long ones, that its tokens
            do not give back as it was: characters are unknown, or letters become small.
        answer_end: the id with which responses end, where fill follows them up to the sequence's length; else None.
    """

    name: str
    tokenizer: Tokenizer
    length: int
    train: Sequences
    validation: Sequences
    bytes_per_position: float | None
    fingerprint: str
    task: Task | None = None
    changed_text: float = 0.0
    answer_end: int | None = None


def why_no_bits_per_byte(changed_text: float) -> str:
    """What to say of `PreparedData.changed_text` where bits per byte are expected."""
    return f"the tokenizer does not give back {100 * changed_text:.2g} % of the validation text as it was"


class Source(ABC):
    """A data set as the user describes it.

    Attributes:
        name: what `data=` calls it.
        length: positions per sequence, l.
        prompted: sequences begin with a prompt that is given, so that a sample is a response to one.
    """

    name: str
    length: int
    prompted: bool = False

    @abstractmethod
    def prepare(self, tokenizer: TokenizerSpec | None, cache: Path) -> PreparedData:
        """Build, or find in the cache, everything that is needed; all processes call this, and one of them builds.

        Args:
            tokenizer: the recipe for the tokenizer; `FromTask` or None for data that brings its own.
            cache: folder for all prepared data.

        Raises:
            UserError: the data is missing, damaged, too short, or does not go with the tokenizer.
        """


def digest(*parts: object) -> str:
    """A short hash of JSON-like values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
