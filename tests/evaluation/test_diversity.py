"""The measures against plain loops, and the search for copies against one by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from mdm_lightning.evaluation.generation import diversity as module
from mdm_lightning.evaluation.generation.diversity import copied, diversity
from mdm_lightning.evaluation.processes import Processes


def sequences(length: int, vocabulary: int, count: int = 12) -> np.ndarray:
    return np.random.default_rng(length).integers(vocabulary, size=(count, length))


def grams(row: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]


@pytest.mark.parametrize("vocabulary", [1, 3, 50_000])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 40])
def test_against_loops(length, vocabulary):
    tokens = sequences(length, vocabulary)
    measures = diversity(tokens)
    names = {"unigram_entropy": 1, "distinct_1": 1, "distinct_2": 2, "distinct_3": 3, "repetition": 4}
    assert set(measures) == {name for name, least in names.items() if length >= least}
    for i, row in enumerate(tokens.tolist()):
        share = np.array(list(Counter(row).values())) / length
        assert measures["unigram_entropy"][i] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-12)
        for n in range(1, min(length, 3) + 1):
            assert measures[f"distinct_{n}"][i] == pytest.approx(len(set(grams(row, n))) / (length - n + 1))
        if length >= 4:
            fours = grams(row, 4)
            repeated = sum(gram in fours[:k] for k, gram in enumerate(fours))
            assert measures["repetition"][i] == pytest.approx(repeated / len(fours))


def test_extremes():
    constant, all_different = np.zeros((1, 20), dtype=np.int64), np.arange(20)[None]
    assert diversity(constant)["unigram_entropy"] == pytest.approx(0)
    assert diversity(constant)["repetition"] == pytest.approx(16 / 17)
    assert diversity(all_different)["unigram_entropy"] == pytest.approx(math.log(20))
    assert diversity(all_different)["distinct_3"] == pytest.approx(1)


def test_sequences_do_not_see_each_other():
    tokens = sequences(30, 4)
    together = diversity(tokens)
    for i in range(len(tokens)):
        for name, value in diversity(tokens[i : i + 1]).items():
            assert together[name][i] == pytest.approx(value[0])


def search_by_hand(tokens: np.ndarray, stream: np.ndarray, width: int) -> np.ndarray:
    known = set(grams(stream.tolist(), width))
    return np.array([[gram in known for gram in grams(row, width)] for row in tokens.tolist()])


@pytest.mark.parametrize("width", [1, 2, 4, 16])
@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_copies_are_found(monkeypatch, width, chunk, dtype):
    """Some windows are copied, some nearly, also across the borders of chunks and at the ends of the stream."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rng = np.random.default_rng(width)
    vocabulary = {1: 60_000, 2: 60, 4: 5, 16: 2}[width]
    stream = rng.integers(vocabulary, size=400)
    tokens = rng.integers(vocabulary, size=(9, 24))
    for row, begin in enumerate((0, 376, 100, 201)):
        tokens[row] = stream[begin : begin + 24]
    tokens[3, 12] = (tokens[3, 12] + 1) % vocabulary
    expected = search_by_hand(tokens, stream, width)
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(copied(tokens, stream.astype(dtype), width, Processes()), expected)


def test_nothing_is_copied_from_a_stream_shorter_than_the_window():
    tokens = np.zeros((2, 5), dtype=np.int64)
    for size in range(5):
        assert not copied(tokens, np.zeros(size, dtype=np.uint16), 5, Processes()).any()
    assert copied(tokens, np.zeros(5, dtype=np.uint16), 5, Processes()).all()


def test_equal_hashes_are_not_enough(monkeypatch):
    monkeypatch.setattr(module, "_MULTIPLIER", np.uint64(0))
    stream, tokens = np.array([0, 1, 2, 3, 4], dtype=np.uint16), np.array([[4, 3, 2, 3, 4]])
    np.testing.assert_array_equal(copied(tokens, stream, 3, Processes()), [[False, False, True]])
