"""Distributions as tables: the paper's toys, tables from files, and data drawn from them."""

import json
import math
import pickle

import numpy as np
import pytest
from scipy import stats

from mdm_lightning.data.tasks.toy import Balanced, Distribution, Extremes, Letters, Table, balanced, extremes
from mdm_lightning.data.tokenizer.spec import ByteLevel, FromTask
from mdm_lightning.data.tokenizer.tokenizer import Tokenizer
from mdm_lightning.errors import UserError


def test_the_papers_toys():
    assert extremes().sequences == ((0,) * 5, (1,) * 5)
    assert {sum(x) for x in balanced().sequences} == {2, 3}
    assert len(balanced().sequences) == len(set(balanced().sequences)) == 20
    for distribution in (extremes(), balanced()):
        assert (distribution.length, distribution.vocab_size) == (5, 2)
        assert set(distribution.probabilities) == {1 / len(distribution.sequences)}


@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_other_lengths(length):
    assert len(extremes(length).sequences) == 2
    counts = [sum(x) for x in balanced(length).sequences]
    middles = {length // 2, (length + 1) // 2} if length % 2 else {length // 2}
    assert set(counts) == middles
    assert len(counts) == sum(math.comb(length, ones) for ones in middles)


def write(tmp_path, content) -> str:
    path = tmp_path / "words.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_from_strings(tmp_path):
    distribution = Distribution.from_json(write(tmp_path, {"sequences": ["bac", "cab"], "probabilities": [0.25, 0.75]}))
    assert distribution == Distribution([(1, 0, 2), (2, 0, 1)], [0.25, 0.75], 3, "words")


def test_from_ids_with_a_larger_vocabulary(tmp_path):
    distribution = Distribution.from_json(write(tmp_path, {"sequences": [[0, 1], [1, 0], [1, 1]], "vocab_size": 5}))
    assert distribution == Distribution.uniform([(0, 1), (1, 0), (1, 1)], 5, "words")


def test_rounded_probabilities_are_normalised(tmp_path):
    distribution = Distribution.from_json(
        write(tmp_path, {"sequences": ["a", "b", "c"], "probabilities": [0.3333333, 0.3333333, 0.3333333]})
    )
    assert sum(distribution.probabilities) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "is no distribution"),
        ({}, "sequences"),
        ({"sequences": "ab"}, "must be a list"),
        ({"sequences": []}, "must be a list"),
        ({"sequences": [[]]}, "non-empty"),
        ({"sequences": ["ab", "a"]}, "equal length"),
        ({"sequences": ["ab", "ab"]}, "twice"),
        ({"sequences": [0, 1]}, "is no distribution"),
        ({"sequences": ["ab", [0, 1]]}, "is no distribution"),
        ({"sequences": [[0, 2]], "vocab_size": 2}, "from 0 to 1"),
        ({"sequences": [[0, -1]]}, "from 0"),
        ({"sequences": [[0, 0.5]]}, "is no distribution"),
        ({"sequences": ["a", "b"], "probabilities": [1.0]}, "2 sequences but 1"),
        ({"sequences": ["a", "b"], "probabilities": [0.5, 0.4]}, "sum to 0.9"),
        ({"sequences": ["a", "b"], "probabilities": [1.0, 0.0]}, "positive"),
        ({"sequences": ["a", "b"], "probabilities": [1.5, -0.5]}, "positive"),
        ({"sequences": ["a", "b"], "probabilities": ["x", "y"]}, "is no distribution"),
        ({"sequences": ["a", "b"], "probabilities": 0.5}, "is no distribution"),
    ],
)
def test_files_that_are_no_distributions(content, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        Distribution.from_json(write(tmp_path, content))
    assert "words.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        Distribution.from_json(tmp_path / "none.json")


@pytest.fixture
def skewed(tmp_path) -> Table:
    path = write(tmp_path, {"sequences": ["aab", "bca", "ccc"], "probabilities": [0.7, 0.2, 0.1]})
    return Table(path, train=5000, validation=400, seed=3)


def test_data_follow_the_distribution(skewed, tmp_path):
    """Chi-square tests at level 1e-5."""
    data = skewed.prepare(FromTask(), tmp_path)
    assert (data.name, data.length, data.tokenizer.vocab_size) == ("toy", 3, 3)
    assert (len(data.train), len(data.validation)) == (5000, 400)
    for split in (data.train, data.validation):
        batch = split.__getitems__(range(len(split)))
        assert batch["maskable"].all()
        drawn = [tuple(row) for row in batch["tokens"].tolist()]
        counts = [drawn.count(sequence) for sequence in skewed.distribution.sequences]
        assert sum(counts) == len(drawn)
        assert stats.chisquare(counts, np.array(skewed.distribution.probabilities) * len(drawn)).pvalue > 1e-5
    assert data.tokenizer.decode(skewed.distribution.sequences[0]) == "aab"


def test_draws_depend_on_seed_and_split_only(skewed, tmp_path):
    again = Table(tmp_path / "words.json", train=5000, validation=400, seed=3)
    other = Table(tmp_path / "words.json", train=5000, validation=400, seed=4)
    first, same, different = (
        source.prepare(None, tmp_path / str(i)) for i, source in enumerate((skewed, again, other))
    )
    assert np.array_equal(first.train.stream, same.train.stream)
    assert first.fingerprint == same.fingerprint != different.fingerprint
    assert not np.array_equal(first.train.stream, different.train.stream)
    assert not np.array_equal(first.train.stream[:1200], first.validation.stream)


def test_a_distribution_is_known_by_its_contents(tmp_path):
    sources = [kind(length=n, train=9, validation=9, seed=0) for kind in (Extremes, Balanced) for n in (4, 5)]
    assert len({source.fingerprint for source in sources}) == 4
    file = write(tmp_path, {"sequences": ["aaaaa", "bbbbb"]})
    assert Table(file, train=9, validation=9, seed=0).distribution.sequences == extremes().sequences


def test_letters():
    """Exactly d outcomes; no letter is special, also after pickling; checkpoints know it by its fingerprint."""
    letters = Letters(3)
    assert (letters.vocab_size, letters.mask_id) == (3, 3)
    assert letters.encode("abca") == [0, 1, 2, 0]
    for each in (letters, pickle.loads(pickle.dumps(letters))):
        assert each.decode([0, 3, 2, 0]) == "a░ca"
    assert Tokenizer.from_state(letters.state()).fingerprint == letters.fingerprint != Letters(4).fingerprint
    with pytest.raises(UserError, match="no letters"):
        Letters(53)


def test_what_sources_refuse(tmp_path):
    with pytest.raises(UserError, match=r"data\.path="):
        Table(None, train=1, validation=1, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        Balanced(length=5, train=0, validation=1, seed=0)
    with pytest.raises(UserError, match="brings its own tokenizer"):
        Balanced(length=5, train=1, validation=1, seed=0).prepare(ByteLevel(), tmp_path)
