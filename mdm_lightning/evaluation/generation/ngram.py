"""An n-gram model of token streams: interpolated Kneser-Ney, in a handful of sorted arrays."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

ABSENT = -1


class Level(NamedTuple):
    """The k distinct n-grams of one order. An n-gram's number is its place here."""

    keys: Int64[np.ndarray, " k"]
    """Sorted: (number of the first n - 1 tokens among those of the order below) * vocab_size + last token."""
    share: Float64[np.ndarray, " k"]
    """Discounted relative frequency of the last token after the others."""
    rest: Float64[np.ndarray, " j"]
    """Mass that discounting freed in each context; contexts are the j n-grams of the order below."""


@dataclass(frozen=True)
class KneserNey:
    """Interpolated Kneser-Ney (Kneser & Ney, 1995; Chen & Goodman, 1999) over a vocabulary of ``vocab_size`` tokens:

        p(w | h) = max(c(h w) - D, 0) / c(h) + rest(h) p(w | h without its first token),

    down to the uniform distribution, so that every token has a positive probability after every context, and they sum
    to one. At the highest order c counts occurrences, below it the distinct tokens that occur in front. The discount
    is D = (n1 + 1) / (n1 + 2 n2 + 2), with the numbers n1, n2 of n-grams counted once and twice: their usual estimate,
    kept inside (0, 1) where there are none. In a context that was never seen, p(w | h) is the lower order's.
    """

    vocab_size: int
    levels: list[Level]

    @classmethod
    def fit(cls, stream: Int64[np.ndarray, " s"], vocab_size: int, order: int) -> "KneserNey":
        """Counts the n-grams up to ``order`` of a stream of at least one token.

        The stream is read as a ring, its end in front of its beginning, so that every token has a full context and
        every n-gram something in front.
        """
        keys, counts = [], []
        number = np.zeros(len(stream), dtype=np.int64)  # of the n-gram that ends at each position
        for n in range(order):
            extended = np.roll(number, 1) * vocab_size + stream
            # torch's sort, which returns values and places together, takes a third of the time of numpy's.
            in_order, by_key = (part.numpy() for part in torch.from_numpy(extended).sort())
            begins = np.flatnonzero(np.diff(in_order, prepend=-1))
            if n > 0:  # every distinct n-gram is one distinct token in front of what it ends with
                counts[-1] = np.bincount(number[by_key[begins]], minlength=len(keys[-1]))
            keys.append(in_order[begins])
            counts.append(np.diff(begins, append=len(stream)))
            number[by_key] = np.repeat(np.arange(len(begins)), counts[-1])
        contexts = [1, *map(len, keys)]
        return cls(vocab_size, [_level(*part, vocab_size) for part in zip(keys, counts, contexts[:-1], strict=True)])

    @property
    def order(self) -> int:
        return len(self.levels)

    def nats(self, tokens: Int64[np.ndarray, "b l"]) -> Float64[np.ndarray, "b l"]:
        """-log p of every token given the tokens in front of it in its row, at most order - 1 of them."""
        probability = np.full(tokens.shape, 1 / self.vocab_size)
        context = np.zeros_like(tokens)  # number of the n-gram in front of each position, or ABSENT
        for keys, share, rest in self.levels:
            key = np.where(context == ABSENT, ABSENT, context * self.vocab_size + tokens)
            place = np.searchsorted(keys, key).clip(max=len(keys) - 1)
            seen = keys[place] == key
            interpolated = np.where(seen, share[place], 0) + rest[context] * probability
            probability = np.where(context == ABSENT, probability, interpolated)
            number = np.where(seen, place, ABSENT)
            context = np.pad(number[:, :-1], ((0, 0), (1, 0)), constant_values=ABSENT)
        return -np.log(probability)


def _level(keys: np.ndarray, counts: np.ndarray, contexts: int, vocab_size: int) -> Level:
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    discount = (once + 1) / (once + 2 * twice + 2)
    context = keys // vocab_size
    total = np.bincount(context, weights=counts, minlength=contexts)
    rest = discount * np.bincount(context, minlength=contexts) / total
    return Level(keys, (counts - discount) / total[context], rest)
