from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest

from mdm_lightning.data.entropy import bigram_entropy, unigram_entropy
from mdm_lightning.errors import UserError


def naive(items: list) -> float:
    counts = Counter(items)
    return -sum(n / len(items) * log(n / len(items)) for n in counts.values())


@pytest.mark.parametrize("vocab_size", [2, 50, 60_000])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_against_counting(vocab_size, dtype):
    tokens = (np.random.default_rng(vocab_size).random(3000) ** 3 * vocab_size).astype(dtype)
    listed = tokens.tolist()
    assert unigram_entropy(tokens) == pytest.approx(naive(listed), abs=1e-12)
    pairs = list(pairwise(listed))
    assert bigram_entropy(tokens) == pytest.approx(naive(pairs) - naive(listed[:-1]), abs=1e-9)


def test_uniform_and_constant():
    assert unigram_entropy(np.arange(1000) % 10) == pytest.approx(log(10))
    assert unigram_entropy(np.zeros(9, dtype=np.uint16)) == 0
    assert bigram_entropy(np.zeros(9, dtype=np.uint16)) == 0


def test_cycle_is_known_from_the_token_before():
    assert bigram_entropy(np.arange(10_000) % 7) == pytest.approx(0, abs=1e-12)


def test_markov_chain():
    """A two-state chain that stays with probability 0.9: H(x_i | x_{i-1}) is the entropy of 0.9.

    The standard deviation over 1e6 steps is 0.0007 nats; five of them.
    """
    switches = np.random.default_rng(0).random(1_000_000) < 0.1
    chain = np.cumsum(switches) % 2
    assert bigram_entropy(chain) == pytest.approx(-0.9 * log(0.9) - 0.1 * log(0.1), abs=0.0035)
    assert unigram_entropy(chain) == pytest.approx(log(2), abs=0.001)


def test_chunks_and_limit(monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 30, 5000).astype(np.uint16)
    whole = unigram_entropy(tokens)
    monkeypatch.setattr("mdm_lightning.data.entropy._CHUNK", 37)
    assert unigram_entropy(tokens) == pytest.approx(whole, abs=1e-14)
    assert unigram_entropy(tokens, limit=100) == pytest.approx(naive(tokens[:100].tolist()), abs=1e-12)
    assert bigram_entropy(tokens, limit=100) == bigram_entropy(tokens[:100])


def test_too_few_tokens():
    with pytest.raises(UserError, match="at least 1"):
        unigram_entropy(np.empty(0, np.uint16))
    with pytest.raises(UserError, match="at least 2"):
        bigram_entropy(np.zeros(1, np.uint16))
