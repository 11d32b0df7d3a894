"""Data sets small enough to see through, and samplers whose output is known."""

from collections.abc import Sequence

import numpy as np
import torch

from mdm_lightning.data.source import PreparedData
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer, from_characters
from mdm_lightning.denoiser.base import Denoiser
from mdm_lightning.denoiser.exact import ExactDenoiser
from mdm_lightning.diffusion.schedule import BetaSchedule
from mdm_lightning.evaluation.base import Nowhere, Row, Subject
from mdm_lightning.sampling.count import FirstHitting
from mdm_lightning.sampling.order import Random
from mdm_lightning.sampling.sampler import Sampler

ONE_AT_A_TIME = Sampler(BetaSchedule(0.9, 0.3), FirstHitting(), Random(), steps=5)
"""Draws from the distribution of an exact denoiser."""


class Rows:
    """Sequences in memory."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    @property
    def stream(self) -> np.ndarray:
        return self.tokens.reshape(-1)

    def __len__(self) -> int:
        return len(self.tokens)

    def maskable_counts(self, indices):
        return np.full(len(indices), self.tokens.shape[1])

    def __getitem__(self, index):
        return {name: part[0] for name, part in self.__getitems__([index]).items()}

    def __getitems__(self, indices):
        tokens = torch.from_numpy(self.tokens[list(indices)].astype(np.int64))
        return {"tokens": tokens, "maskable": torch.ones_like(tokens, dtype=torch.bool)}


class Shown(Nowhere):
    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def text(self, name: str, text: str, *, markdown: bool = False) -> None:
        self.texts[name] = text


def prepared(tokenizer: Tokenizer, train: np.ndarray, validation: np.ndarray) -> PreparedData:
    length = validation.shape[1]
    return PreparedData("toy", tokenizer, length, Rows(train), Rows(validation), 1.0, "fingerprint")


def text_subject(train: Sequence[str], validation: Sequence[str], distribution: Sequence[str] = ()) -> Subject:
    """Texts of one length, a token per character; the denoiser knows the uniform distribution on ``distribution``."""
    characters = sorted({c for text in (*train, *validation, *distribution) for c in text})
    tokenizer = Tokenizer(from_characters(characters))

    def ids(texts: Sequence[str]) -> np.ndarray:
        return np.array(tokenizer.encode_batch(texts))

    data = prepared(tokenizer, ids(train).astype(np.uint16), ids(validation).astype(np.uint16))
    denoiser: Denoiser = ExactDenoiser(ids(distribution or validation).tolist(), vocab_size=tokenizer.vocab_size)
    return Subject(denoiser, tokenizer, data.length, lambda: data, seed=3, outputs=Shown())


def by_metric(rows: Sequence[Row], text: str) -> dict[str, Row]:
    return {row.metric: row for row in rows if row.settings["text"] == text}
