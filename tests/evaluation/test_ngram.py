"""The n-gram model against a plain recursion over dictionaries, and against a distribution that it can learn."""

import math
from collections import Counter

import numpy as np
import pytest

from mdm_lightning.evaluation.generation.ngram import KneserNey

VOCABULARY = 7


def stream_of(size: int, seed: int = 0, used: int = 5) -> np.ndarray:
    """Tokens with strong dependence, of which the last of the vocabulary never occur."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(used, 0.3), size=used)
    tokens = [0]
    for _ in range(size - 1):
        tokens.append(int(rng.choice(used, p=table[tokens[-1]])))
    return np.array(tokens)


class PlainKneserNey:
    """The definition, on dictionaries and tuples."""

    def __init__(self, stream: np.ndarray, vocabulary: int, order: int) -> None:
        tokens = stream.tolist()
        self.vocabulary, self.order = vocabulary, order
        grams = {
            n: Counter(tuple(tokens[(i + k) % len(tokens)] for k in range(n)) for i in range(len(tokens)))
            for n in range(1, order + 1)
        }
        self.counts = {order: grams[order]}
        for n in range(1, order):
            self.counts[n] = Counter(gram[1:] for gram in grams[n + 1])
        self.discounts = {}
        for n, counts in self.counts.items():
            once = sum(c == 1 for c in counts.values())
            twice = sum(c == 2 for c in counts.values())
            self.discounts[n] = (once + 1) / (once + 2 * twice + 2)

    def probability(self, context: tuple[int, ...], token: int) -> float:
        context = context[len(context) - min(len(context), self.order - 1) :]
        lower = self.probability(context[1:], token) if context else 1 / self.vocabulary
        n = len(context) + 1
        after = {gram: c for gram, c in self.counts[n].items() if gram[:-1] == context}
        if not after:
            return lower
        total, discount = sum(after.values()), self.discounts[n]
        share = max(after.get((*context, token), 0) - discount, 0) / total
        return share + discount * len(after) / total * lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 60])
def test_against_the_definition(order, size):
    stream = stream_of(size, seed=order)
    plain, model = PlainKneserNey(stream, VOCABULARY, order), KneserNey.fit(stream, VOCABULARY, order)
    seen = np.resize(stream_of(60, seed=order), (3, 9))
    tokens = np.concatenate([seen, np.random.default_rng(order).integers(VOCABULARY, size=(5, 9))])
    expected = [
        [-math.log(plain.probability(tuple(row[:i]), row[i])) for i in range(len(row))] for row in tokens.tolist()
    ]
    np.testing.assert_allclose(model.nats(tokens), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4, 5])
@pytest.mark.parametrize("size", [1, 500])
def test_probabilities_of_every_context_sum_to_one(order, size):
    model = KneserNey.fit(stream_of(size), VOCABULARY, order)
    contexts = np.concatenate(
        [np.resize(stream_of(500), (60, 6)), np.random.default_rng(1).integers(VOCABULARY, size=(60, 6))]
    )
    continued = np.stack([np.column_stack([contexts, np.full(len(contexts), w)]) for w in range(VOCABULARY)])
    for length in range(7):
        rows = continued[:, :, 6 - length :].reshape(-1, length + 1)
        probability = np.exp(-model.nats(rows)[:, -1]).reshape(VOCABULARY, -1)
        assert (probability > 0).all()
        np.testing.assert_allclose(probability.sum(0), 1, rtol=1e-12)


def test_an_example_by_hand():
    """c(0) = 3, c(1) = 1, so n1 = 1, n2 = 0 and D = 2/3; the freed mass 2 D / 4 is shared by three tokens."""
    model = KneserNey.fit(np.array([0, 0, 0, 1]), 3, 1)
    freed = 2 * (2 / 3) / 4
    expected = [(3 - 2 / 3) / 4 + freed / 3, (1 - 2 / 3) / 4 + freed / 3, freed / 3]
    np.testing.assert_allclose(np.exp(-model.nats(np.array([[0], [1], [2]])))[:, 0], expected, rtol=1e-12)


def test_only_the_last_tokens_count():
    model = KneserNey.fit(stream_of(500), VOCABULARY, 3)
    tokens = np.random.default_rng(0).integers(5, size=(4, 10))
    other = tokens.copy()
    other[:, :3] = (tokens[:, :3] + 1) % 5
    np.testing.assert_array_equal(model.nats(tokens)[:, 5:], model.nats(other)[:, 5:])
    assert (model.nats(tokens)[:, 4] != model.nats(other)[:, 4]).any()


def test_learns_a_markov_chain():
    """Held out, it costs the chain's own nats and little more; by Gibbs' inequality not less (but for fluctuations of
    the difference, whose standard deviation here is below 0.001)."""
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(6, 0.5), size=(6, 6))
    cumulative, uniform = table.cumsum(-1), rng.random(60_000)
    tokens = [0, 1]
    for u in uniform:
        tokens.append(min(int(np.searchsorted(cumulative[tokens[-2], tokens[-1]], u)), 5))
    stream = np.array(tokens)
    train, held_out = stream[:50_000], stream[50_000:]
    truth = -np.log(table[held_out[:-2], held_out[1:-1], held_out[2:]]).mean()
    for order, most in ((3, 0.01), (5, 0.1)):
        nats = KneserNey.fit(train, 6, order).nats(held_out[None])[0, 2:].mean()
        assert truth - 0.005 < nats < truth + most
    assert KneserNey.fit(train, 6, 2).nats(held_out[None])[0, 2:].mean() > truth + 0.1


def test_numbers_beyond_32_bits():
    """Contexts times vocabulary outgrow 32 bits for published tokenizers."""
    rng = np.random.default_rng(0)
    stream = rng.integers(2**31, size=300)
    model = KneserNey.fit(stream, 2**31, 3)
    seen = model.nats(stream[None, :20])
    assert (seen[:, 2:] < math.log(2**31) / 2).all()
    assert (model.nats(rng.integers(2**31, size=(1, 20))) > math.log(2**31)).all()
