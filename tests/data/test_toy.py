"""Laws as tables: the paper's toys, and tables from files."""

import json
import math

import pytest

from mdm_lightning.data.toy import Law, balanced, extremes
from mdm_lightning.errors import UserError


def test_the_papers_toys():
    assert extremes().sequences == ((0,) * 5, (1,) * 5)
    assert {sum(x) for x in balanced().sequences} == {2, 3}
    assert len(balanced().sequences) == len(set(balanced().sequences)) == 20
    for law in (extremes(), balanced()):
        assert (law.length, law.vocab_size) == (5, 2)
        assert set(law.probabilities) == {1 / len(law.sequences)}


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
    law = Law.from_json(write(tmp_path, {"sequences": ["bac", "cab"], "probabilities": [0.25, 0.75]}))
    assert law == Law([(1, 0, 2), (2, 0, 1)], [0.25, 0.75], 3, "words")


def test_from_ids_with_a_larger_vocabulary(tmp_path):
    law = Law.from_json(write(tmp_path, {"sequences": [[0, 1], [1, 0], [1, 1]], "vocab_size": 5}))
    assert law == Law.uniform([(0, 1), (1, 0), (1, 1)], 5, "words")


def test_rounded_probabilities_are_normalised(tmp_path):
    law = Law.from_json(
        write(tmp_path, {"sequences": ["a", "b", "c"], "probabilities": [0.3333333, 0.3333333, 0.3333333]})
    )
    assert sum(law.probabilities) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "is no law"),
        ({}, "sequences"),
        ({"sequences": "ab"}, "must be a list"),
        ({"sequences": []}, "must be a list"),
        ({"sequences": [[]]}, "non-empty"),
        ({"sequences": ["ab", "a"]}, "equal length"),
        ({"sequences": ["ab", "ab"]}, "twice"),
        ({"sequences": [0, 1]}, "is no law"),
        ({"sequences": ["ab", [0, 1]]}, "is no law"),
        ({"sequences": [[0, 2]], "vocab_size": 2}, "from 0 to 1"),
        ({"sequences": [[0, -1]]}, "from 0"),
        ({"sequences": [[0, 0.5]]}, "is no law"),
        ({"sequences": ["a", "b"], "probabilities": [1.0]}, "2 sequences but 1"),
        ({"sequences": ["a", "b"], "probabilities": [0.5, 0.4]}, "sum to 0.9"),
        ({"sequences": ["a", "b"], "probabilities": [1.0, 0.0]}, "positive"),
        ({"sequences": ["a", "b"], "probabilities": [1.5, -0.5]}, "positive"),
        ({"sequences": ["a", "b"], "probabilities": ["x", "y"]}, "is no law"),
        ({"sequences": ["a", "b"], "probabilities": 0.5}, "is no law"),
    ],
)
def test_files_that_are_no_laws(content, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        Law.from_json(write(tmp_path, content))
    assert "words.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        Law.from_json(tmp_path / "none.json")
