"""Scorers: models other than the one being evaluated that say how likely a text is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from mdm_lightning.arguments import check_numbers
from mdm_lightning.errors import UserError
from mdm_lightning.evaluation.base import Subject
from mdm_lightning.evaluation.generation.ngram import KneserNey


class Scores(NamedTuple):
    """What a scorer makes of b texts."""

    nats: Float64[np.ndarray, " b"]
    """-log probability of each text's counted tokens."""
    counted: Int64[np.ndarray, " b"]
    """Number of tokens, the scorer's own, that were scored."""

    @property
    def average(self) -> float:
        """Nats per token, over all tokens."""
        return float(self.nats.sum() / self.counted.sum())

    def per_token(self) -> Float64[np.ndarray, " b"]:
        """Each text's share of the average to first order: nats_i - average * tokens_i per mean number of tokens above
        the average. So their mean is the average, and their spread gives its standard error (delta method). With
        equally many tokens it is the text's nats per token."""
        return self.average + (self.nats - self.average * self.counted) / self.counted.mean()


PreparedScorer = Callable[[Int64[np.ndarray, "b l"], Sequence[str]], Scores]
"""Scores texts, given as the evaluated model's tokens and decoded."""


class Scorer(Protocol):
    """A model other than the evaluated one that scores text."""

    @property
    def protocol(self) -> str:
        """Who scores and how, in words: perplexities of different protocols cannot be compared."""
        ...

    def prepare(self, subject: Subject) -> PreparedScorer:
        """Loads or fits the scorer, once.

        Raises:
            UserError: it cannot be had.
        """
        ...


PreparedEncoder = Callable[[Int64[np.ndarray, "b l"], Sequence[str]], Float64[np.ndarray, "b h"]]
"""Points of texts, given as the evaluated model's tokens and decoded."""


@runtime_checkable
class TextEncoder(Protocol):
    """A scorer with hidden states, in which texts that are alike lie near each other."""

    def encoder(self, subject: Subject) -> PreparedEncoder:
        """The hidden state of the last layer at each text's last position.

        Raises:
            UserError: the model cannot be had.
        """
        ...


@dataclass(frozen=True)
class NgramScorer:
    """An n-gram model fitted on the training tokens: always at hand, and good at telling noise from text.

    It scores every token given those in front of it in the sequence, at most order - 1, and reads the evaluated model's
    own tokens: its numbers compare models with the same tokenizer only.

    Args:
        order: tokens per n-gram.
        tokens: how many of the training tokens, from the first on, it is fitted on.

    Raises:
        ValueError: a number is not positive.
    """

    order: int = 5
    tokens: int = 10_000_000

    def __post_init__(self) -> None:
        check_numbers(self, order=1, tokens=1)

    @property
    def protocol(self) -> str:
        return (
            f"interpolated Kneser-Ney {self.order}-gram model of (up to) the first {self.tokens:,} training tokens, "
            "every token scored"
        )

    def prepare(self, subject: Subject) -> PreparedScorer:
        stream = subject.data.train.stream[: self.tokens].astype(np.int64)
        model = KneserNey.fit(stream, subject.tokenizer.vocab_size, self.order)

        def score(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> Scores:
            return Scores(model.nats(tokens).sum(axis=1), np.full(len(tokens), tokens.shape[1]))

        return score


@dataclass(frozen=True)
class NoScorer:
    """Scores nothing."""

    @property
    def protocol(self) -> str:
        return "none"

    def prepare(self, subject: Subject) -> PreparedScorer:
        def score(tokens: Int64[np.ndarray, "b l"], texts: Sequence[str]) -> Scores:
            return Scores(np.zeros(len(tokens)), np.zeros(len(tokens), dtype=np.int64))

        return score


def finite_scores(
    scorer: Scorer, prepared: PreparedScorer, batch: Int64[np.ndarray, "b l"], texts: Sequence[str], first: int
) -> Scores:
    """The scores of a batch whose first text has the number ``first``.

    Raises:
        UserError: the scorer has no finite score for a text.
    """
    scores = prepared(batch, texts)
    flawed = ~np.isfinite(scores.nats)
    if flawed.any():
        raise UserError(
            f"the scorer ({scorer.protocol}) has no finite score for text {first + int(flawed.argmax())} (from 0): its "
            "weights are broken, or its logits overflow"
        )
    return scores
